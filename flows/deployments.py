"""What a person may run from the Prefect UI, its schedules, and the automations that start it.

Run as `python -m flows.deployments`: registers everything and executes what is due until stopped.
"""

import importlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefect import Flow, serve
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.events import DeploymentEventTrigger, EventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, Posture
from prefect.schedules import Cron
from prefect.states import Crashed

from feature_repo.settings import Settings, load_settings
from flows.monitor import EVENT
from flows.project import open_project
from flows.releasing.keeper import keeping

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed")
AT_ONCE = 4  # flow runs in parallel, each a process of its own
PAGE = 200  # the most flow runs that the API returns at once

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """One deployment: a flow as `module:function`, when it runs by itself, and which event runs it.

    An event's payload is passed on: `from_event` names the parameter for each template.
    """

    name: str
    flow: str
    description: str
    cron: str | None = None
    event: str | None = None
    from_event: tuple[tuple[str, str], ...] = ()


PLANS = (
    Plan(
        "daily-loop",
        "flows.loop:daily_loop",
        "One day, end to end: ingest, features, labels, monitor. Without a day: the next one not yet done.",
        cron="0 4 * * *",
    ),
    Plan(
        "hourly-ingest",
        "flows.ingest:hourly_ingest",
        "Takes in what is new since the last batch, and refreshes the online features.",
        cron="5 * * * *",
    ),
    Plan(
        "retrain",
        "flows.retrain:retrain",
        "Trains a candidate on the newest mature labels; the gate decides whether it is promoted. The monitor"
        " asks for it; by its schedule it trains without a champion, or with an old one.",
        cron="0 6 * * 1",
        event=EVENT,
        from_event=(
            ("until", "{{ event.payload.until }}"),
            ("window", "{{ event.payload.window | default('') }}"),
            ("reason", "{{ event.payload.reasons | default('the monitor asked for it') }}"),
        ),
    ),
    Plan(
        "monitor",
        "flows.monitor:monitor",
        "Compares what was served with the model's reference and with the outcomes; gives a verdict.",
    ),
    Plan(
        "skew-probe",
        "flows.skew:skew_probe",
        "Makes the features of journalled answers again, compares value by value, and names what skews them.",
        cron="30 4 * * *",
    ),
    Plan(
        "backfill",
        "flows.loop:backfill",
        "Takes in a stretch of past days and computes its features. Repeating it changes nothing.",
    ),
    Plan(
        "backfill-features",
        "flows.feature_backfill:backfill_features",
        "Computes one feature table, a new one say, over the past that has landed; touches no other.",
    ),
    Plan(
        "restate",
        "flows.corrections:restate",
        "Asks the source again for days that have landed; what it corrected lands, and what follows of it.",
    ),
    Plan(
        "upkeep",
        "flows.upkeep:upkeep",
        "Makes few large files of many small ones in the lake; deletes versions that nothing needs.",
        cron="0 3 * * 0",
    ),
    Plan(
        "rollback", "flows.releasing.release:rollback", "Makes the previous model version the champion again."
    ),
    Plan("promote", "flows.releasing.release:promote", "Makes a model version of your choice the champion."),
    Plan(
        "propose",
        "flows.releasing.proposal:propose",
        "Waits for a person's word on a version, here or by `perennial approve`; then releases it, or not.",
    ),
)


def load_flow(entry: str) -> Flow[..., Any]:
    """Import the flow named `module:function`."""
    module, _, name = entry.partition(":")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow), f"{entry} is a {type(flow).__name__}, not a flow"
    return flow


def build_deployment(plan: Plan, settings: Settings, time_zone: str) -> RunnerDeployment:
    """Turn a plan into a deployment; one run at a time, later ones are cancelled, not queued."""
    triggers = [_build_trigger(plan)] if plan.event else None
    schedule = Cron(plan.cron, timezone=time_zone, active=settings.schedules) if plan.cron else None
    deployment = load_flow(plan.flow).to_deployment(
        plan.name,
        schedule=schedule,
        description=plan.description,
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        triggers=triggers,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)
    return deployment


def _build_trigger(plan: Plan) -> DeploymentEventTrigger:
    assert plan.event is not None
    return DeploymentEventTrigger(
        name=f"{plan.name} on {plan.event}",
        description=f"Runs {plan.name} when {plan.event} arrives.",
        expect={plan.event},
        posture=Posture.Reactive,
        threshold=1,
        # No cool-down here: it would count wall-clock time, while the monitor's own counts logical time.
        within=timedelta(0),
        parameters=dict(plan.from_event),
    )


def build_zombie_automation() -> AutomationCore:
    """Crash a run whose process went silent, so that it gives back its place."""
    return AutomationCore(
        name="crash runs without a heartbeat",
        description="A run whose process is gone is marked as crashed and frees its concurrency slot.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{ending}" for ending in ENDINGS)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=70),  # two heartbeats and some
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat for 70 s: its process is gone.")
        ],
    )


def ensure_automation(wanted: AutomationCore) -> None:
    """Create the automation, or bring the one of that name up to date."""
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(wanted.name)
        if found:
            client.update_automation(found[0].id, wanted)
        else:
            client.create_automation(wanted)


def crash_stale_runs(client: SyncPrefectClient, deployments: Sequence[str]) -> int:
    """Mark as crashed what an earlier runner left unfinished; return how many runs that were.

    To be called before the runner starts: nothing of these deployments can be running then. Runs
    that a person started outside the runner belong to no deployment and are left alone.
    """
    ids = [d.id for d in client.read_deployments() if d.name in deployments]
    if not ids:
        return 0
    unfinished = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    crashed = 0
    while runs := client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=ids),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unfinished)),
        ),
        limit=PAGE,
    ):
        for run in runs:
            state = Crashed(message="Its process ended with an earlier runner.")
            client.set_flow_run_state(run.id, state, force=True)
        crashed += len(runs)
    return crashed


def serve_plans(plans: Sequence[Plan], settings: Settings, time_zone: str) -> None:
    """Register the plans and the automations, then execute runs until told to stop."""
    began = time.monotonic()
    with get_client(sync_client=True) as client:
        crashed = crash_stale_runs(client, [plan.name for plan in plans])
    ensure_automation(build_zombie_automation())
    deployments = [build_deployment(plan, settings, time_zone) for plan in plans]
    logger.warning(
        "serving %d deployments, %d stale runs crashed, after %.1f s",
        len(deployments),
        crashed,
        time.monotonic() - began,
    )
    serve(
        *deployments,
        limit=AT_ONCE,
        query_seconds=2,
        pause_on_shutdown=False,
        print_starting_message=False,
        webserver=True,
    )


def main() -> None:
    """Serve the project's deployments with settings from the environment."""
    from feature_repo.problem import PROBLEM

    settings = load_settings()
    with keeping(open_project(settings)):
        serve_plans(PLANS, settings, PROBLEM.time_zone)


if __name__ == "__main__":
    main()
