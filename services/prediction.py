"""The BentoML service: wiring only. `bentoml serve services.prediction:PredictionService`.

Importing this module does nothing; the service is built, from the settings in the environment, when
BentoML asks for it by name. Files and connections are opened in the workers, not before.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from feature_repo.contract import Problem
from feature_repo.errors import JournalUnavailable, StoreUnavailable
from feature_repo.settings import Settings, load_settings
from feature_repo.store import FeatureStore, OnlineVector
from services.answering import Store
from services.app import build_app
from services.journal import Journal
from services.live import LiveModels
from services.metrics import Metrics, forget_dead_workers
from services.models import Registry

REOPEN_SECONDS = 1.0  # how long a store that failed is left alone

log = logging.getLogger("perennial.service")


class ReopeningStore:
    """A feature store that comes back when its files do.

    An open database goes on answering after its file was removed or replaced, with values that nobody
    renews; `files` are watched for that.
    """

    def __init__(self, open_store: Callable[[], Store], files: Sequence[Path]) -> None:
        self._open = open_store
        self._files = files
        self._store: Store | None = None
        self._opened_on: object = None
        self._retry_at = 0.0

    def read_online(self, rows: Sequence[Mapping[str, Any]]) -> list[OnlineVector]:
        """Return each row's features. Raises StoreUnavailable."""
        store = self._reach()
        try:
            return store.read_online(rows)
        except Exception:
            self._store, self._retry_at = None, time.monotonic() + REOPEN_SECONDS
            raise

    def _reach(self) -> Store:
        now_on = [_identify(path) for path in self._files]
        if None in now_on:
            raise self._unavailable("no file", f"run ingest to make {self._files[now_on.index(None)]}.")
        if self._store is None or now_on != self._opened_on:
            if time.monotonic() < self._retry_at:
                raise self._unavailable("an error a moment ago", "Look at /live and the service's log.")
            try:
                self._store, self._opened_on = self._open(), now_on
            except Exception as error:
                self._retry_at = time.monotonic() + REOPEN_SECONDS
                raise self._unavailable(f"{type(error).__name__}: {error}", "Run ingest.") from error
        return self._store

    def _unavailable(self, got: str, next_step: str) -> StoreUnavailable:
        return StoreUnavailable("online feature store", got=got, expected="a store", next_step=next_step)


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def build_service(settings: Settings) -> Any:
    """Return the BentoML service of the bundled problem."""
    import bentoml

    from feature_repo.problem import PROBLEM
    from services.schemas import build_wire

    return assemble(settings, PROBLEM, build_wire(PROBLEM), bentoml)


def assemble(settings: Settings, problem: Problem, wire: Any, bentoml: Any) -> Any:
    """Return a BentoML service around the app of one problem."""
    from prometheus_client import REGISTRY

    home, feast = settings.home, settings.home / "feast"
    metrics = Metrics(REGISTRY)
    journal = Journal(home / "journal" / "journal.db")
    registry = Registry(settings.mlflow_url, problem.name, quick=True)
    models = LiveModels(registry, home / "models", settings.poll_seconds, metrics)
    store = ReopeningStore(lambda: FeatureStore(home, problem), (feast / "registry.db", feast / "online.db"))

    def start() -> None:
        logging.getLogger("perennial").setLevel(logging.INFO)
        forget_dead_workers()
        models.start()
        # Feast takes seconds to import: better before the worker is ready than in its first answer.
        threading.Thread(target=_warm, args=(store,), name="warm", daemon=True).start()

    def stop() -> None:
        models.stop()
        journal.close()

    app = build_app(problem, store, models, journal, wire, metrics, start, stop)

    class PredictionService:
        """Answers requests on the champion, the previous version, the rule or the prior, and says which."""

        def __is_ready__(self) -> bool:
            try:
                journal.check()
            except JournalUnavailable as error:
                log.warning("not ready: %s", error)
                return False
            return True

    decorate = bentoml.service(
        name="PredictionService",
        workers=settings.service_workers,
        # Per request these cost more than the model does.
        logging={"access": {"enabled": False}},
        tracing={"excluded_urls": ".*"},
        # Two workers on two cores: threads of one tree ensemble would only wait for each other.
        envs=[{"name": "OMP_NUM_THREADS", "value": "1"}],
    )
    return decorate(bentoml.asgi_app(app, path="/")(PredictionService))


def _warm(store: ReopeningStore) -> None:
    try:
        store.read_online([])
    except Exception as error:  # noqa: BLE001 - the first request tries again and names it
        log.info("no feature store yet: %s", error)


def __getattr__(name: str) -> Any:
    if name != "PredictionService":
        raise AttributeError(name)
    service = globals()[name] = build_service(load_settings())
    return service
