"""What notices and answers: the system's own functions, of which a test switches one off at a time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from feature_repo.contract import Period
from flows.judgement import monitor_window
from flows.monitor import Findings, run_monitor
from flows.project import Project
from flows.release import reconcile_previous, roll_back
from flows.skew import SkewReport, probe_skew

DAY = timedelta(days=1)


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

    def __call__(self, project: Project, until: datetime, /) -> str:
        """Return why it was undone, or nothing."""


def watch_release(project: Project, until: datetime) -> str:
    """Judge the champion on its last day whose labels are all here; roll it back if its quality broke."""
    reconcile_previous(project)
    champion = project.registry.aliases()["champion"]
    last = project.day(project.local_day(until - project.problem.horizon)).since
    verdict = monitor_window(
        project.lake,
        project.journal,
        project.problem,
        project.package(champion),
        project.day(project.local_day(last) - DAY),
        reports=project.settings.home / "reports",
        version=str(champion),
        asof=until,
        draw=False,
    )
    if verdict.quality.state != "breach":
        return ""
    reason = "; ".join(verdict.quality.reasons)
    roll_back(project, reason)
    return reason


@dataclass(frozen=True)
class Defences:
    """One for each failure mode; what the service does by itself is in its own process.

    monitor        weekly verdicts, daily watch, the event that asks for a retrain
    probe          the skew probe
    watch_release  what undoes a bad release
    """

    monitor: Monitor = run_monitor
    probe: Probe = probe_skew
    watch_release: Watch = watch_release
