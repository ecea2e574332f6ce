"""The BentoML service: wiring only. `bentoml serve services.prediction:PredictionService`.

Importing this module does nothing; the service is built, from the settings in the environment, when
BentoML asks for it by name. Files and connections are opened in the workers, not before.
"""

import gc
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
from services.definitions import build_require
from services.journal import Journal
from services.live import LiveModels
from services.metrics import Metrics
from services.models import Registry

REOPEN_SECONDS = 1.0  # how long a store that failed is left alone

SETTLE_SECONDS = 30.0  # after which a worker is ready even if the registry has said nothing yet

log = logging.getLogger("perennial.service")


class ReopeningStore:
    """A feature store that comes back when its files do.

    An open database goes on answering after its file was removed or replaced, with values that nobody
    renews, and by definitions that have changed since: both files are watched. Opening takes seconds the
    first time, so nobody waits for an opening that another thread is at.
    """

    def __init__(self, open_store: Callable[[], Store], definitions: Path, values: Path) -> None:
        self._open_store = open_store
        self._definitions = definitions
        self._values = values
        self._store: Store | None = None
        self._opened_on: object = None
        self._retry_at = 0.0
        self._opening = threading.Lock()

    def read_online(self, rows: Sequence[Mapping[str, Any]]) -> list[OnlineVector]:
        """Return each row's features. Raises StoreUnavailable."""
        store = self._reach()
        try:
            return store.read_online(rows)
        except Exception:
            self._forget()
            raise

    def is_there(self) -> bool:
        """Return whether there is anything to open."""
        return self._identify() is not None

    def open(self) -> bool:
        """Open the store if it is there; return whether it is open. Never raises."""
        try:
            self._reach()
        except StoreUnavailable as error:
            log.info("%s", error)
            return False
        return True

    def _reach(self) -> Store:
        now_on = self._identify()
        if now_on is None:
            self._store = None
            raise _unavailable(f"no {self._definitions} or no {self._values}")
        if self._store is not None and now_on == self._opened_on:
            return self._store
        if time.monotonic() < self._retry_at:
            raise _unavailable("an error a moment ago")
        if not self._opening.acquire(blocking=False):
            raise _unavailable("a store that is being opened")
        try:
            self._store, self._opened_on = self._open_store(), now_on
            return self._store
        except Exception as error:
            self._forget()
            raise _unavailable(f"{type(error).__name__}: {error}") from error
        finally:
            self._opening.release()

    def _identify(self) -> tuple[int, ...] | None:
        try:
            definitions, values = self._definitions.stat(), self._values.stat()
        except OSError:
            return None
        return definitions.st_ino, definitions.st_mtime_ns, values.st_ino

    def _forget(self) -> None:
        self._store, self._retry_at = None, time.monotonic() + REOPEN_SECONDS


def _unavailable(got: str) -> StoreUnavailable:
    return StoreUnavailable(
        "online feature store", got=got, expected="a store to read", next_step="Run ingest to fill it."
    )


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
    models = LiveModels(registry, home / "models", settings.poll_seconds, metrics, build_require(problem))
    store = ReopeningStore(lambda: FeatureStore(home, problem), feast / "registry.db", feast / "online.db")

    stopping, begun = threading.Event(), time.monotonic()

    def start() -> None:
        logging.getLogger("perennial").setLevel(logging.INFO)
        metrics.note_limits({table.name: table.ttl.total_seconds() for table in problem.feature_tables})
        # Importing Feast takes seconds: better before the worker is ready than in an answer. What follows
        # the registry imports MLflow, and may do that later.
        if store.is_there():
            store.open()
        else:
            threading.Thread(target=_await_store, args=(store, stopping), name="store", daemon=True).start()
        models.start()
        # What is there now stays: the collector need not look at it again, and has less to do a request.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    def stop() -> None:
        stopping.set()
        models.stop()
        journal.close()

    app = build_app(problem, store, models, journal, wire, metrics, start, stop, settings.answer_seconds)

    class PredictionService:
        """Answers requests on the champion, the previous version, the rule or the prior, and says which."""

        def __is_ready__(self) -> bool:
            # A worker without any model waits for one, but not for a registry that does not answer.
            waits = models.serving.champion is None and not models.settled.is_set()
            if waits and time.monotonic() - begun < SETTLE_SECONDS:
                return False
            try:
                journal.check()
            except JournalUnavailable as error:
                log.warning("not ready: %s", error)
                return False
            return True

    decorate = bentoml.service(
        name="PredictionService",
        workers=settings.service_workers,
        # Per request these cost more than the model does; /metrics is the app's own.
        logging={"access": {"enabled": False}},
        metrics={"enabled": False},
        tracing={"excluded_urls": ".*"},
        # Two workers on two cores: threads of one worker would only wait for each other.
        envs=[{"name": name, "value": "1"} for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")],
    )
    return decorate(bentoml.asgi_app(app, path="/")(PredictionService))


def _await_store(store: ReopeningStore, stopping: threading.Event) -> None:
    """Open the store as soon as a first ingest has made it."""
    while not stopping.wait(REOPEN_SECONDS):
        if store.is_there() and store.open():
            return


def __getattr__(name: str) -> Any:
    if name != "PredictionService":
        raise AttributeError(name)
    service = globals()[name] = build_service(load_settings())
    return service
