"""What notices and answers: the system's own functions, of which a test switches one off at a time."""

from dataclasses import dataclass
from typing import Any, Protocol

from feature_repo.contract import Period
from flows.monitor import Findings, run_monitor
from flows.project import Project
from flows.skew import SkewReport, probe_skew


class Monitor(Protocol):
    """Judges what is due, and asks for a retrain."""

    def __call__(self, *args: Any, **options: Any) -> Findings:
        """Do so."""


class Probe(Protocol):
    """Compares journalled features with recomputed ones."""

    def __call__(self, project: Project, wire: Any, period: Period, /) -> SkewReport:
        """Do so."""


@dataclass(frozen=True)
class Defences:
    """One for each failure mode; what the service does by itself is in its own process.

    monitor       weekly verdicts, daily watch, the event that asks for a retrain
    probe         the skew probe
    recheck_days  landed days that the source is asked about again
    """

    monitor: Monitor = run_monitor
    probe: Probe = probe_skew
    recheck_days: int = 3
