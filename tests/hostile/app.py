"""The bundled problem's service in this process, over real HTTP: real model and journal, a store of ones."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_repo.problem import PROBLEM
from feature_repo.store import OnlineVector


class Ones:
    """A feature store where every value is 1."""

    def read_online(self, rows: Any) -> list[OnlineVector]:
        values = {name: 1.0 for table in PROBLEM.feature_tables for name in table.features}
        return [OnlineVector(dict(values), (), {}) for _ in rows]


@contextmanager
def serve_app(folder: Path) -> Iterator[int]:
    """Run the app with uvicorn and yield its port."""
    import uvicorn

    from services.app import build_app
    from services.journal import Journal
    from services.live import LiveModels
    from services.metrics import Metrics
    from services.schemas import build_wire
    from tests.packages import FakeRegistry, write_package

    registry, metrics = FakeRegistry(), Metrics()
    registry.register(write_package(folder / "package", PROBLEM), "run", {})
    registry.named = {"champion": 1}
    models = LiveModels(registry, folder / "models", 60, metrics)
    models.poll()
    journal = Journal(folder / "journal" / "journal.db")
    app = build_app(PROBLEM, Ones(), models, journal, build_wire(PROBLEM), metrics, on_stop=journal.close)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([taken],))
        thread.start()
        while not server.started:
            time.sleep(0.05)
        try:
            yield int(taken.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
