"""What the Prefect UI offers: deployments, schedules, the retrain event, and the care for dead runs."""

import inspect
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feature_repo.settings import load_settings
from flows.local.stack import Stack, running_stack
from flows.local.stack_services import PROJECT, build_services
from tests.ports import find_free_port

STAND_INS = """
from datetime import date, datetime
from prefect import flow

@flow
def daily_loop(day: date | None = None): ...
@flow
def hourly_ingest(hours: int = 1): ...
@flow
def retrain(until: datetime | None = None, reason: str = "by hand", window: str = ""): ...
@flow
def monitor(until: datetime | None = None): ...
@flow
def backfill(since: date, until: date): ...
@flow
def backfill_features(table: str, since: date | None = None, until: date | None = None): ...
@flow
def restate(since: date, until: date): ...
@flow
def skew_probe(since: datetime | None = None, until: datetime | None = None, answers: int = 1): ...
@flow
def upkeep(keep_days: int = 30): ...
@flow
def rollback(reason: str): ...
@flow
def promote(version: int, reason: str): ...
@flow
def propose(version: int, reason: str = "by hand", stage: str | None = None): ...
"""

RUNNER = """
import dataclasses, sys
from feature_repo.settings import load_settings
from flows.deployments import PLANS, serve_plans
plans = [dataclasses.replace(plan, flow="stand_ins:" + plan.flow.split(":")[1]) for plan in PLANS]
serve_plans(plans, load_settings(), "America/New_York")
"""


def test_every_plan_names_a_flow_that_takes_what_its_event_gives():
    """A deployment whose flow is gone, or that has lost a parameter, would only fail when it is needed."""
    from flows.deployments import PLANS, load_flow

    for plan in PLANS:
        parameters = inspect.signature(load_flow(plan.flow).fn).parameters
        assert {name for name, _ in plan.from_event} <= set(parameters)


def test_one_run_at_a_time_and_later_ones_are_cancelled():
    """Two runs of one stage never work on the same period; nothing piles up behind a long one."""
    from flows.deployments import PLANS, build_deployment

    for plan in PLANS:
        options = build_deployment(plan, load_settings(), "America/New_York").concurrency_options
        assert options is not None
        assert options.collision_strategy == "CANCEL_NEW"


@pytest.mark.parametrize("wanted", [True, False])
def test_schedules_run_only_where_they_are_wanted(wanted):
    """A replay of past days switches the wall-clock schedules off; they stay visible."""
    from flows.deployments import PLANS, build_deployment

    settings = load_settings(schedules=wanted)
    schedules = [s for p in PLANS for s in build_deployment(p, settings, "America/New_York").schedules or []]
    assert len(schedules) == len([plan for plan in PLANS if plan.cron]) > 0
    assert all(s.active is wanted and s.schedule.timezone == "America/New_York" for s in schedules)


def test_an_automation_is_there_once_however_often_it_is_ensured(prefect_server):
    """Starting the runner again updates the automation of that name."""
    from prefect.client.orchestration import get_client

    from flows.deployments import build_zombie_automation, ensure_automation

    for _ in range(2):
        ensure_automation(build_zombie_automation())
    with get_client(sync_client=True) as client:
        assert len(client.read_automations_by_name(build_zombie_automation().name)) == 1


def test_runs_that_an_earlier_runner_left_are_crashed_and_no_others(prefect_server):
    """A run without a process gives back its place; one that a person started is not touched."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.deployments import crash_stale_runs

    @flow
    def stage() -> None: ...

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(flow_id=client.create_flow(stage), name="stage")
        left = client.create_flow_run_from_deployment(deployment, state=Running())
        by_hand = client.create_flow_run(stage, state=Running())
        assert crash_stale_runs(client, ["stage"]) == 1
        assert crash_stale_runs(client, ["stage"]) == 0
        assert client.read_flow_run(left.id).state.is_crashed()
        assert client.read_flow_run(by_hand.id).state.is_running()


class Api:
    """The Prefect API as a program sees it; SQLite may answer 503 once in a while."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/api"

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def find_runs(self, deployment: str, state: str | None = None) -> list[dict[str, Any]]:
        filters = {"deployments": {"name": {"any_": [deployment]}}}
        runs = self.post("/flow_runs/filter", filters)
        return [run for run in runs if state in (None, run["state_type"])]

    def await_runs(
        self, deployment: str, state: str | None = None, seconds: float = 90
    ) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if runs := self.find_runs(deployment, state):
                return runs
            time.sleep(0.5)
        return []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Api]]:
    """A real Prefect server and a real runner that serves stand-in flows."""
    folder: Path = tmp_path_factory.mktemp("served")
    (folder / "stand_ins.py").write_text(STAND_INS)
    ports = {
        f"{name}_port": find_free_port() for name in ("prefect", "mlflow", "runner", "service", "reports")
    }
    settings = load_settings(home=folder / "home", **ports)
    services = {service.name: service for service in build_services(settings)}
    server, runner = services["prefect"], services["runner"]
    paths = {"PYTHONPATH": f"{PROJECT}:{folder}"}
    runner = replace(
        runner,
        command=(sys.executable, "-c", RUNNER),
        environment={**runner.environment, **paths},
        after=(),
    )
    with running_stack(settings, [server, runner]) as stack:
        yield stack, Api(settings.prefect_url)


@pytest.mark.e2e
@pytest.mark.slow
def test_the_server_lists_what_a_person_may_run(served):
    """Each deployment is there with the parameters that the UI renders."""
    _, api = served
    found = {
        d["name"]: d["parameter_openapi_schema"]["properties"] for d in api.post("/deployments/filter", {})
    }
    from flows.deployments import PLANS

    assert set(found) == {plan.name for plan in PLANS}
    assert found["promote"]["version"]["type"] == "integer"
    assert found["backfill"]["since"]["format"] == "date"


@pytest.mark.e2e
@pytest.mark.slow
def test_the_scheduler_creates_runs(served):
    """With a wrong SQLAlchemy the server starts and its scheduler silently creates none."""
    _, api = served
    assert api.await_runs("hourly-ingest", "SCHEDULED")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_run_that_a_person_starts_completes(served):
    """A quick run goes from the API through the runner to a process, and ends well."""
    _, api = served
    deployment = next(d for d in api.post("/deployments/filter", {}) if d["name"] == "promote")
    wanted = {"version": 3, "reason": "a test"}
    api.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": wanted})
    (run,) = api.await_runs("promote", "COMPLETED")
    assert run["parameters"] == wanted


@pytest.mark.e2e
@pytest.mark.slow
def test_the_retrain_event_runs_retrain_with_its_payload(served):
    """The monitor's event alone, through the automation, makes a run of retrain with its time and reasons."""
    _, api = served
    event = {
        "id": "0d6f5ce8-3d1c-4d26-9a1b-9c3d8d5f1c11",
        "event": "perennial.verdict.retrain",
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "resource": {"prefect.resource.id": "perennial.model.flight-delay"},
        "payload": {
            "until": "2013-05-01T00:00:00Z",
            "reasons": "skill below the floor",
            "window": "week of 22 April",
        },
    }
    api.post("/events", [event])
    (run,) = api.await_runs("retrain", "COMPLETED")
    assert run["parameters"] == {
        "until": "2013-05-01T00:00:00Z",
        "reason": "skill below the floor",
        "window": "week of 22 April",
    }
