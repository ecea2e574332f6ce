"""Retrain: train a candidate, let the gate decide, release it if it passed."""

from dataclasses import dataclass
from datetime import datetime

from prefect import flow, get_run_logger

from flows.gate import gate
from flows.ingest import landed_until
from flows.policy.gate import GateVerdict
from flows.progress import report
from flows.project import Project, open_project
from flows.release import release
from flows.summary import publish_table
from flows.train import train


@dataclass(frozen=True)
class Outcome:
    """What a retrain came to."""

    version: int
    passed: bool
    reasons: tuple[str, ...]


def retrain_and_release(project: Project, until: datetime, reason: str) -> Outcome:
    """Train on labels known before `until`; promote the candidate only if the gate passes it."""
    report(0, 3, "training")
    candidate = train(project, until, reason)
    report(1, 3, "judging the candidate")
    verdict: GateVerdict = gate(project, candidate)
    report(2, 3, "releasing")
    if verdict.passed:
        release(project, candidate.version, reason)
    return Outcome(candidate.version, verdict.passed, verdict.reasons)


@flow(name="retrain")
def retrain(until: datetime | None = None, reason: str = "by hand") -> dict[str, object]:
    """Train on everything known before `until` (default: all that has landed) and end in the gate."""
    project = open_project()
    until = until or landed_until(project)
    outcome = retrain_and_release(project, until, reason)
    told = {
        "version": outcome.version,
        "until": f"{until:%Y-%m-%d %H:%M}",
        "reason": reason,
        "gate": "passed" if outcome.passed else "rejected",
        "why": "; ".join(outcome.reasons) or "every check held",
    }
    get_run_logger().info("version %(version)s %(gate)s: %(why)s", told)
    publish_table("retrain", [told], "What the retrain came to")
    return told
