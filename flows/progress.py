"""Progress of what takes more than a moment, with an estimate of the rest; on stderr, beside the answers.

Work says how far it is by `report`, and knows nothing of who listens. In a terminal a bar is drawn; elsewhere
a plain line says it every few seconds. How long each kind of work took is kept in the home, so that the next
time there is an estimate from the first second on.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 5.0  # from one line to the next, where the output is no terminal
SLOWER = 12  # lines in the time so far, at most: what takes long says so less often
# Seconds that work takes the first time, on two cores with nothing else to do; roughly.
FIRST = {"demo": 780.0, "backfill": 90.0, "retrain": 45.0, "hourly-ingest": 10.0, "doctor": 15.0}
MANY = 10  # steps that say more about the rest than the last time does
KEPT = "timings.json"  # under the home

_listeners: list[Callable[[int, int, str], None]] = []


def report(done: int, total: int, what: str = "") -> None:
    """Say that so much of the work at hand is done; nothing happens if nobody listens."""
    for listen in _listeners:
        listen(done, total, what)


@dataclass
class Gauge:
    """How far one piece of work is; `usual` is how many seconds it took the last time."""

    name: str
    usual: float | None
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    total: int = 0
    what: str = ""
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def took(self) -> float:
        """Seconds so far."""
        return self.clock() - self.began

    def note(self, done: int, total: int, what: str) -> None:
        """Take what the work reports."""
        self.done, self.total, self.what = done, total, what

    def estimate(self) -> float | None:
        """Return the seconds that are left, if known: by the pace of many steps, else by the last time."""
        paced = self.took * (self.total - self.done) / self.done if self.done else None
        if self.usual is None or (paced is not None and self.total >= MANY):
            return paced
        return max(self.usual - self.took, 0.0)

    def tell(self) -> str:
        """Return where it is, in words."""
        parts = [f"{self.done} of {self.total}"] if self.total else []
        parts += [self.what] if self.what else []
        left = self.estimate()
        rest = (
            f"about {tell_seconds(left)} left"
            if left
            else "no estimate yet"
            if left is None
            else "nearly done"
        )
        return ", ".join([*parts, tell_seconds(self.took), rest])


def tell_seconds(seconds: float) -> str:
    """Return seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextlib.contextmanager
def showing(name: str, home: Path, console: Console | None = None) -> Iterator[Gauge]:
    """Show how far the work inside the block is, and keep how long it took if it ends well."""
    console = console or Console(stderr=True)
    gauge = Gauge(name, read_timings(home).get(name, FIRST.get(name)))
    _listeners.append(gauge.note)
    try:
        with _drawing(gauge, console) if console.is_terminal else _saying(gauge, sys.stderr.write):
            yield gauge
    finally:
        _listeners.remove(gauge.note)
    _keep(home, name, gauge.took)


@contextlib.contextmanager
def _drawing(gauge: Gauge, console: Console) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(gauge.name, total=None, told="")

    def draw() -> None:
        bar.update(task, completed=gauge.done, total=gauge.total or None, told=gauge.tell())

    with bar, _every(lambda: 0.25, draw):
        yield


@contextlib.contextmanager
def _saying(gauge: Gauge, write: Callable[[str], object]) -> Iterator[None]:
    def wait() -> float:
        return max(LINE_SECONDS, gauge.took / SLOWER)

    with _every(wait, lambda: write(f"{gauge.name}: {gauge.tell()}\n")):
        yield


@contextlib.contextmanager
def _every(seconds: Callable[[], float], act: Callable[[], object]) -> Iterator[None]:
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds()):
            act()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read_timings(home: Path) -> dict[str, float]:
    """Return how many seconds each kind of work took the last time."""
    try:
        told = json.loads((home / KEPT).read_text())
        return {str(name): float(seconds) for name, seconds in told.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep(home: Path, name: str, seconds: float) -> None:
    from feature_repo.lake import write_atomically

    if home.is_dir():  # a look at nothing leaves nothing
        with contextlib.suppress(OSError):  # a home that may only be read costs the next estimate
            write_atomically(home / KEPT, json.dumps({**read_timings(home), name: round(seconds, 1)}))
