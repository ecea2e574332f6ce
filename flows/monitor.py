"""The monitor: which windows are due, what their verdicts add up to, and the event that asks to retrain."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Period, Problem
from feature_repo.errors import NotEnoughData, SettingsError
from feature_repo.lake import Lake
from flows.day_watch import Publish, is_watched, watch_days
from flows.judgement import monitor_window
from flows.label import TABLE as LABELS
from flows.label import Predictions
from flows.policy.trigger import Trigger, TriggerPolicy, decide
from flows.project import Project
from flows.retrain_records import ASKED, read_retrains
from flows.served import Champion, read_champion
from flows.verdicts import (
    Request,
    WindowVerdict,
    describe,
    name_window,
    read_history,
    read_known,
    read_requests,
    record_request,
)

EVENT = "perennial.verdict.retrain"
POLICY = TriggerPolicy()
# Wall-clock time in which a retrain that was asked for comes to an end, and how often it is asked for.
PATIENCE, ATTEMPTS = timedelta(hours=6), 3
NOTHING_YET = Trigger(False, (), ("no window is complete yet",))
Emit = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Findings:
    """One run of the monitor: verdicts of the windows that were due, and what the latest one decides.

    `days` are the verdicts of whole days, which need no labels: their alarms ask for a person.
    """

    verdicts: tuple[WindowVerdict, ...] = ()
    days: tuple[WindowVerdict, ...] = ()
    trigger: Trigger = NOTHING_YET
    asked: bool = False  # a retrain was asked for in this very run


def evaluate(lake: Lake, window: Period, champion: Champion, policy: TriggerPolicy = POLICY) -> Trigger:
    """Decide over the version's recorded windows up to this one."""
    requests = read_requests(lake, champion.version)
    # The version still serves, so whatever was asked for before brought no new champion.
    rejected = max((one.until for one in requests.values() if one.until < window.until), default=None)
    since = window.until - policy.of * policy.window
    history = read_history(lake, champion.version, Period(since, window.until), policy.window)
    return decide(history, policy, trained=champion.trained_until, rejected=rejected)


def ask_for_retrain(
    lake: Lake, problem: Problem, window: Period, version: str, trigger: Trigger, *, now: datetime, emit: Emit
) -> bool:
    """Ask for a retrain because of a window, once; return whether that was now.

    The request is recorded after the event was taken: a kill in between sends it again, under the same
    event id and window, by which the retrain runs once. It is sent anew if what it asked for never ran to
    its end: a runner was killed, training failed, or the run was cancelled for another that was under way.
    """
    key = name_window(window, version)
    asked = read_requests(lake, version).get(key)
    if asked and not _is_lost(lake, key, asked):
        return False
    payload = {
        "until": now.isoformat(),
        "window": key,
        "model_version": version,
        "causes": ", ".join(trigger.causes),
        "reasons": "; ".join(trigger.reasons),
        "attempt": asked.attempt + 1 if asked else 1,
    }
    emit(problem.name, payload)
    record_request(lake, key, version, window.until, payload)
    return True


def _is_lost(lake: Lake, key: str, asked: Request) -> bool:
    """Return whether a request of a while ago brought no retrain that came to an end, and another may."""
    if asked.attempt >= ATTEMPTS or datetime.now(UTC) - asked.sent_at < PATIENCE:
        return False
    return not any(one.key == key and one.state != ASKED for one in read_retrains(lake))


def list_windows(problem: Problem, until: datetime, policy: TriggerPolicy = POLICY) -> list[Period]:
    """Return the last `of` windows whose labels are all mature at `until`, oldest first.

    Windows follow each other from the problem's start, so that no answer is judged in two.
    """
    count = max(0, (until - problem.horizon - problem.start) // policy.window)
    starts = [problem.start + i * policy.window for i in range(max(0, count - policy.of), count)]
    return [Period(start, start + policy.window) for start in starts]


def run_monitor(
    lake: Lake,
    journal: Predictions,
    problem: Problem,
    package: Path,
    reports: Path,
    *,
    version: str,
    until: datetime,
    again: bool = False,
    emit: Emit | None = None,
    publish: Publish | None = None,
    policy: TriggerPolicy = POLICY,
) -> Findings:
    """Judge every window that is due at `until` and has no verdict yet; with `again` the latest one anew.

    On a day on which no window matures it only decides again: what a killed run left unsaid is said.
    """
    champion, known = read_champion(package, version), read_known(lake)
    mature = [w for w in list_windows(problem, until, policy) if w.until > champion.trained_until]
    due = [w for w in mature if name_window(w, version) in known or is_watched(journal, w, version)]
    fresh = [w for w in due if name_window(w, version) not in known] or (due[-1:] if again else [])
    findings, show = Findings(), publish or publish_verdict
    for window in fresh or due[-1:]:
        judged = (
            monitor_window(
                lake, journal, problem, package, window, reports=reports, version=version, policy=policy
            )
            if window in fresh
            else None
        )
        trigger, asked = evaluate(lake, window, champion, policy), False
        if judged:
            show(problem.name, describe(judged, trigger, str(reports)))
        if trigger.retrain:
            asked = ask_for_retrain(
                lake, problem, window, version, trigger, now=until, emit=emit or emit_retrain
            )
        verdicts = (*findings.verdicts, judged) if judged else findings.verdicts
        findings = replace(findings, verdicts=verdicts, trigger=trigger, asked=findings.asked or asked)
    days = watch_days(lake, journal, problem, package, reports, version=version, until=until, publish=show)
    return replace(findings, days=days)


def emit_retrain(name: str, payload: Mapping[str, Any]) -> None:
    """Send the event that asks for a retrain, and return only when the Prefect server has taken it.

    Prefect's emit_event hands over to a thread that drops events when the server is away: the retrain
    would be lost silently. This raises instead.
    """
    from prefect.client.orchestration import get_client
    from prefect.events import Event
    from prefect.runtime import flow_run

    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    event = Event(
        event=EVENT,
        occurred=datetime.now(UTC),
        resource={"prefect.resource.id": f"perennial.model.{name}", "prefect.resource.name": name},
        related=[run] if flow_run.id else [],
        payload=dict(payload),
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"{EVENT}/{name}/{payload['window']}/{payload['attempt']}"),
    )
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def publish_verdict(name: str, markdown: str) -> None:
    """Show the verdict as an artifact of the run, if there is one."""
    from flows.summary import publish

    publish(f"verdict-{name}", markdown, f"Monitor of {name}")


@task(name="monitor", cache_policy=NO_CACHE)
def monitor_step(
    lake: Lake, journal: Predictions, problem: Problem, package: Path, reports: Path, *, version: str,
    until: datetime,
) -> Findings:  # fmt: skip
    """Run the monitor as a step of a larger flow."""
    return run_monitor(lake, journal, problem, package, reports, version=version, until=until)


def _choose_until(project: Project, until: datetime | None) -> datetime | None:
    """Return the instant to look from: the newest label's, or the one given, if the data has come so far."""
    from flows.ingest import landed_until

    newest = project.lake.latest(LABELS, by="known_at")
    if until is None:
        return newest
    if until.tzinfo is None:
        raise SettingsError(
            "until of the monitor",
            got=f"{until} without a zone",
            expected="an instant with its zone, as 2013-07-01T04:00:00Z",
            next_step="Add Z for UTC.",
        )
    reached = max(filter(None, (newest, landed_until(project))))
    if until > reached:
        raise NotEnoughData(
            f"monitor of {project.problem.name}",
            got=f"until {until}",
            expected=f"{reached} at the latest: so far the data has come",
            next_step="Leave `until` out, or run daily-loop up to there first.",
        )
    return until


@flow(name="monitor", log_prints=True)
def monitor(until: datetime | None = None) -> dict[str, Any]:
    """Judge the champion on its latest complete week and days; `until` is the logical time to look from."""

    from flows.announce import announce
    from flows.project import open_project

    project = open_project()
    now = _choose_until(project, until)
    version = project.registry.aliases().get("champion")
    if now is None or version is None:
        raise NotEnoughData(
            f"monitor of {project.problem.name}",
            got=f"champion {version}, newest label {now}",
            expected="a champion and labels of its answers",
            next_step="Promote a model, send it requests, then run daily-loop.",
        )
    findings = run_monitor(
        project.lake,
        project.journal,
        project.problem,
        project.package(version),
        project.settings.home / "reports",
        version=str(version),
        until=now,
        again=True,
    )
    announce(project)
    windows, days = ([verdict.key for verdict in found] for found in (findings.verdicts, findings.days))
    print("; ".join((*windows, *findings.trigger.reasons)))
    for day in findings.days:
        print(f"{day.key}: {', '.join(day.alarms) or 'no alarm'}")
    return {"windows": windows, "days": days, "retrain": findings.trigger.retrain}
