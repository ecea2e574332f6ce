"""Retrain: train a candidate, let the gate decide, release it if it passed; keep what came of it.

The same window of the monitor is answered once. After rejections in a row that came no nearer, requests
that no person made are held until there is new evidence; so is what passed against a champion that serves
no more. What passed and could not be released, for a kill, a monitor that was down, or a person's own
experiment, is released by the loop's next day or the next retrain.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from prefect import flow, get_run_logger

from flows.code_version import read_code_version
from flows.gate import gate
from flows.ingest import landed_until
from flows.policy.gate import GateVerdict
from flows.policy.patience import EVENT, HAND, SCHEDULE, Tried, may_retrain
from flows.policy.trigger import TriggerPolicy
from flows.progress import report
from flows.project import Project, open_project
from flows.releasing.passed import Stage, name_champion, release_judged, release_waiting
from flows.retrain_records import (
    ASKED,
    HELD,
    PASSED,
    REJECTED,
    Retrain,
    list_tried,
    now,
    read_retrains,
    record_retrain,
    tell_tried,
)
from flows.served import read_champion
from flows.summary import publish_table
from flows.train import train
from flows.training_window import tabulate


@dataclass(frozen=True)
class Request:
    """Who asks for a retrain, and why.

    key     names the request: a run of the same key takes up what a killed one left
    window  the monitor's window that asked; it is answered once
    """

    until: datetime
    reason: str
    cause: str = HAND
    window: str = ""
    key: str = ""
    stage: Stage = "full"


def retrain_and_release(project: Project, request: Request) -> Retrain:
    """Train on labels known before `until`; release the candidate only if the gate passes it."""
    history = read_retrains(project.lake)
    key = request.window or request.key or str(uuid.uuid4())
    left = next((one for one in history if one.key == key and one.state == PASSED), None)
    if left is not None:
        return release_judged(project, left)
    release_waiting(project)
    begun = Retrain(
        key=key,
        asked_at=now(),
        until=request.until,
        cause=request.cause,
        reason=request.reason,
        window=request.window,
        evidence=_describe_evidence(project),
        stage=request.stage,
    )
    tried = list_tried(history)
    if request.cause == SCHEDULE and (why := _find_no_need(project, request.until, tried)):
        return _hold(project, begun, why, history)
    leave = may_retrain(
        tried,
        cause=request.cause,
        until=request.until,
        window=request.window,
        evidence=begun.evidence,
    )
    if not leave.granted:
        return _hold(project, begun, leave.reason, history)
    record_retrain(project.lake, begun)
    report(0, 3, "training")
    candidate = train(project, request.until, request.reason)
    report(1, 3, "judging the candidate")
    verdict: GateVerdict = gate(project, candidate)
    report(2, 3, "releasing")
    judged = replace(
        begun,
        state=PASSED if verdict.passed else REJECTED,
        version=candidate.version,
        learned_from=candidate.window,
        tried=tell_tried(tabulate(candidate.windows, candidate.window)),
        why="; ".join(verdict.reasons) or "every check held",
        behind=verdict.behind,
    )
    record_retrain(project.lake, judged)
    return release_judged(project, judged) if verdict.passed else judged


def _hold(project: Project, begun: Retrain, why: str, history: list[Retrain]) -> Retrain:
    held = replace(begun, state=HELD, why=why)
    # What the key came to before stays as it was; the answer alone says that it is not done again.
    if any(one.key == held.key and one.state != ASKED for one in history):
        return held
    return record_retrain(project.lake, held)


def _find_no_need(project: Project, until: datetime, tried: Sequence[Tried]) -> str:
    """Return why the schedule need not train: the monitor asks, where there is a champion that is asked."""
    policy, newest = TriggerPolicy(), max((one.until for one in tried), default=None)
    if newest is not None and until < newest + policy.after_rejection:
        return f"a retrain of {newest:%Y-%m-%d} is less than {policy.after_rejection.days} days old"
    champion = project.registry.aliases().get("champion")
    if champion is None or policy.oldest is None:
        return ""
    learned = read_champion(project.package(champion), str(champion)).trained_until
    if until - learned < policy.oldest:
        return f"version {champion} learned from rows until {learned:%Y-%m-%d}: sooner only the monitor asks"
    return ""


def _describe_evidence(project: Project) -> str:
    return f"champion {name_champion(project)}, {project.problem.feature_service}, code {read_code_version()}"


@flow(name="retrain")
def retrain(
    until: datetime | None = None, reason: str = "by hand", window: str = "", stage: Stage = "full"
) -> dict[str, object]:
    """Train on everything known before `until` (default: all that has landed) and end in the gate.

    `window` is the monitor's, if it asked: it is answered once. A scheduled run trains where the monitor
    cannot ask: without a champion, or with an old one for which nothing was tried in a week. `stage` is how a
    candidate that passes is released: at once and watched (full), or beside the champion first.
    """
    project = open_project()
    until = until or landed_until(project)
    cause, key = _read_run()
    request = Request(until, reason, EVENT if window else cause, window, key, stage)
    came = retrain_and_release(project, request)
    told: dict[str, object] = {
        "version": came.version or "",
        "until": f"{until:%Y-%m-%d %H:%M}",
        "reason": reason,
        "gate": {HELD: "held", REJECTED: "rejected"}.get(came.state, "passed"),
        "why": came.why,
        "learned from": came.learned_from,
        "released": came.released,
    }
    get_run_logger().info("version %(version)s %(gate)s: %(why)s", told)
    publish_table("retrain", [told], "What the retrain came to")
    return told


def _read_run() -> tuple[str, str]:
    """Return what started this run, and its id."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return HAND, ""
    return (SCHEDULE if run.auto_scheduled else HAND), str(run.id)
