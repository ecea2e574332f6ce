"""What notices and answers: the system's own functions, of which a test switches one off at a time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from feature_repo.contract import Period
from flows.monitor import Findings, run_monitor
from flows.project import Project
from flows.releasing.look import Looked, look
from flows.skew import SkewReport, probe_skew


class Monitor(Protocol):
    """Judges what is due, and asks for a retrain."""

    def __call__(self, *args: Any, **options: Any) -> Findings:
        """Do so."""


class Probe(Protocol):
    """Compares journalled features with recomputed ones."""

    def __call__(self, project: Project, wire: Any, period: Period, /) -> SkewReport:
        """Do so."""


class Watch(Protocol):
    """Looks at a new champion by what has become known until then; undoes it if it is surely worse."""

    def __call__(self, project: Project, until: datetime, /) -> Looked | None:
        """Do so."""


@dataclass(frozen=True)
class Defences:
    """One for each failure mode; what the service does by itself is in its own process.

    monitor        weekly verdicts, daily watch, the event that asks for a retrain
    probe          the skew probe
    watch_release  what undoes a bad release
    """

    monitor: Monitor = run_monitor
    probe: Probe = probe_skew
    watch_release: Watch = look
