"""The keeper: sees within a second that an alias was moved in MLflow, and keeps `previous` and record true.

It also looks at the rollout under way, every minute. Both run beside the runner, each in a thread of its own;
without them nothing is lost, for every command and every day of the loop begins with the same.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from polars.exceptions import PanicException

from feature_repo.errors import PerennialError
from flows.project import Project
from flows.releasing.release import reconcile_previous
from services.registry_reader import RegistryReader

PAUSE, LOOK_PAUSE = 0.5, 60.0  # seconds
ALIASES, LOOK = "aliases are not followed", "no look at the rollout"

log = logging.getLogger("perennial.keeper")


class Keeper:
    """Follows the aliases of one project."""

    def __init__(self, project: Project, read: Callable[[], dict[str, int]]) -> None:
        self._project, self._read = project, read
        self._known: dict[str, int] | None = None
        self._trouble: dict[str, str] = {}  # what goes wrong, by job, as long as it does

    def tend(self) -> bool:
        """Reconcile if an alias moved; return whether it did. Trouble is told once, and tried again."""
        try:
            aliases = self._read()
            named: dict[str, int] = {
                alias: aliases[alias] for alias in ("champion", "challenger") if alias in aliases
            }
            moved = named != self._known
            if moved:
                reconcile_previous(self._project)
                # As it was before: a click that came while we reconciled is seen the next time.
                self._known = named
            self._trouble.pop(ALIASES, None)
            return moved
        except (Exception, PanicException) as error:  # noqa: BLE001 - the thread must go on
            self._tell(ALIASES, error)
            return False

    def look(self) -> None:
        """Look at the release under way, and at what was clicked past the gate."""
        try:
            from flows.ingest import landed_until
            from flows.releasing.look import look

            found = look(self._project, landed_until(self._project))
            if found and found.action != "go on":
                log.warning("rollout of version %s: %s", found.rollout.version, found.action)
            self._trouble.pop(LOOK, None)
        except (Exception, PanicException) as error:  # noqa: BLE001
            self._tell(LOOK, error)

    def _tell(self, job: str, error: BaseException) -> None:
        """Tell trouble of one kind once, with its traceback where it is no error of ours."""
        if self._trouble.get(job) != type(error).__name__:
            ours = isinstance(error, PerennialError)
            log.warning("%s: %s", job, error, exc_info=None if ours else error)
        self._trouble[job] = type(error).__name__


@contextmanager
def keeping(project: Project) -> Iterator[Keeper]:
    """Keep the project while the block runs."""
    url, name = project.settings.mlflow_url, project.problem.name
    readable = RegistryReader.can_read(url)
    reader = RegistryReader(url, name)
    keeper = Keeper(project, reader.aliases if readable else project.registry.aliases)
    ended = threading.Event()

    def repeat(act: Callable[[], object], pause: float) -> None:
        while not ended.wait(pause):
            act()

    jobs = ((keeper.tend, PAUSE), (keeper.look, LOOK_PAUSE))
    threads = [threading.Thread(target=repeat, args=job, name="keeper", daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield keeper
    finally:
        ended.set()
