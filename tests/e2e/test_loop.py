"""The real stack, driven through a shortened demo: real servers, real flights, real HTTP."""

import signal
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from feature_repo.settings import Settings
from tests.local_stack import settle, started_stack, train_first

# Whole libraries run in this process here; what they warn of is told, and fails nothing.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]

FIRST, TODAY = date(2013, 1, 1), date(2013, 2, 5)
GOOD = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400,
    "scheduled_departure": "2013-02-05T17:15:00Z",
    "requested_at": "2013-02-05T15:00:00Z",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return a running stack with five weeks of data, a champion, and a day of traffic behind it."""
    settings = settle(tmp_path_factory.mktemp("home"))
    with started_stack(settings) as stack:
        yield {"stack": stack, **_prepare(settings)}


def _prepare(settings: Settings) -> dict[str, Any]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.demo import Script, replay_day
    from flows.loop import backfill_days
    from flows.project import open_project
    from flows.story import Story
    from flows.traffic import Load

    project, story = open_project(settings), Story()
    backfill_days(project, FIRST, TODAY, lambda done, total: None)
    load = Load(settings.service_url, project.problem, per_second=8)
    with temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}):
        version = train_first(project, TODAY)
        load.start()
        replay_day(project, TODAY, Script(per_day=200), story, load)
    return {"settings": settings, "project": project, "story": story, "load": load, "version": version}


def wait_for_run(settings: Settings, deployment: str, parameters: dict[str, Any]) -> str:
    """Run a deployment as the Prefect UI does and return its last state's name."""
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}),
        get_client(sync_client=True) as client,
    ):
        found = next(d for d in client.read_deployments() if d.name == deployment)
        run = run_deployment(found.id, parameters=parameters, timeout=240, poll_interval=1)
        assert run.state is not None
        return run.state.name


def test_a_day_of_traffic_was_answered_by_the_champion(world: dict[str, Any]) -> None:
    """Fresh features were online when they were asked for: the model answered, not the rule."""
    served = world["story"].served
    assert served["champion"] > 0.9 * sum(served.values())
    journal = world["project"].journal.read_predictions(world["project"].day(TODAY))
    assert len(journal) >= sum(served.values())


def test_journalled_features_equal_the_offline_ones(world: dict[str, Any]) -> None:
    """What the service used, value by value, is what the point-in-time join gives for the same instant."""
    import json

    import polars as pl

    from flows.training_set import read_features

    project = world["project"]
    problem, day = project.problem, project.day(TODAY)
    journal = project.journal.read_predictions(day).filter(pl.col("served_by") == "champion")
    asked = problem.build_requests({"schedule": project.lake.read("schedule")})
    # The sample asks at `decided_at`; the background load asks earlier, as of the newest tick.
    asked = asked.with_columns(pl.col("decided_at").dt.strftime("%Y-%m-%dT%H:%M").alias("at"))
    journal = journal.with_columns(pl.col("requested_at").str.slice(0, 16).alias("at"))
    rows = journal.join(asked, left_on=["entity", "at"], right_on=["flight_id", "at"], how="inner")
    keys = asked.join(rows.select(flight_id="entity").unique(), on="flight_id").drop("at")
    tables = [t.name for t in (*problem.raw, *problem.feature_tables)]
    offline = read_features(project, keys, project.lake.snapshot(tables))
    truth = {row["flight_id"]: row for row in offline.to_dicts()}
    compared, wrong = 0, []
    for row in rows.to_dicts():
        # The load may ask as of a tick that the store has just passed: such a value is refused and flagged.
        flagged = {f["feature"] for f in json.loads(row["flags"]) if f["kind"] == "expired"}
        for name, used in json.loads(row["features"]).items():
            if name in flagged:
                assert used is None
                continue
            compared += 1
            if used != truth[row["entity"]][name]:
                wrong.append((row["entity"], name, used, truth[row["entity"]][name]))
    assert compared > 3_000
    assert wrong == []


def test_a_quick_run_of_retrain_completes(world: dict[str, Any]) -> None:
    """The deployment that the Prefect UI lists trains, judges and leaves a version in the registry."""
    day = world["project"].day(TODAY)
    state = wait_for_run(world["settings"], "retrain", {"until": day.until.isoformat(), "reason": "a test"})
    assert state == "Completed"
    assert len(world["project"].registry.versions()) == 2


def test_every_worker_follows_the_alias_and_no_request_fails(
    world: dict[str, Any],
) -> None:
    """Moving `champion` by client swaps every worker while requests go on."""
    from mlflow import MlflowClient

    from flows.traffic import await_version

    settings, load, first = world["settings"], world["load"], world["version"]
    client = MlflowClient(settings.mlflow_url)
    sent = load.sent
    for version in (first + 1, first, first + 1, first):
        client.set_registered_model_alias("flight-delay", "champion", str(version))
        seconds = await_version(settings.service_url, version, settings.service_workers, 15)
        assert seconds is not None
    assert load.sent > sent
    assert load.failed == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({k: v for k, v in GOOD.items() if k != "origin"}, 422, "origin"),
        ({**GOOD, "distance": "far"}, 422, "distance"),
        ({**GOOD, "wings": 2}, 422, "wings"),
        ([], 422, ""),
        ([GOOD] * 1_001, 422, ""),
        ({**GOOD, "scheduled_departure": "2013-02-05T17:15:00"}, 422, "scheduled_departure"),
    ],
    ids=["missing field", "text for a number", "unknown field", "empty list", "1,001 items", "no zone"],
)
def test_bad_input_is_answered_by_name(world: dict[str, Any], body: Any, status: int, field: str) -> None:
    """A malformed request gets a 4xx that names the field, what was got and what was expected."""
    answer = httpx.post(f"{world['settings'].service_url}/predict", json=body, timeout=30)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert field in error["field"]
    assert error["expected"]
    assert error["next_step"]


def test_a_body_of_ten_megabytes_is_refused(world: dict[str, Any]) -> None:
    """A body over the limit gets 413 and the service goes on."""
    url = world["settings"].service_url
    answer = httpx.post(f"{url}/predict", content=b"[" + b" " * 10_000_000 + b"]", timeout=30)
    assert answer.status_code == 413
    assert httpx.post(f"{url}/predict", json=GOOD, timeout=30).status_code == 200


def test_an_unknown_carrier_is_answered_and_flagged(world: dict[str, Any]) -> None:
    """A well-formed request is always answered; what the model never saw is named."""
    answer = httpx.post(
        f"{world['settings'].service_url}/predict", json={**GOOD, "carrier": "ZZ"}, timeout=30
    )
    assert answer.status_code == 200
    told = answer.json()
    assert 0 <= told["probability"] <= 1
    assert "carrier" in str(told["flags"])


def test_it_answers_without_the_online_store_and_without_the_registry(world: dict[str, Any]) -> None:
    """With the store gone and MLflow stopped, /predict still answers and says from what."""
    settings = world["settings"]
    store = settings.home / "feast"
    hidden = store.with_name("hidden")
    world["load"].end()
    store.rename(hidden)
    try:
        told = httpx.post(f"{settings.service_url}/predict", json=GOOD, timeout=30).json()
        assert told["served_by"] in {"rule", "prior"}
        assert told["reason"] != "ok"
    finally:
        hidden.rename(store)
    mlflow = psutil.Process(world["stack"].read().service("mlflow").pid)
    for process in (*mlflow.children(recursive=True), mlflow):
        process.send_signal(signal.SIGSTOP)
    try:
        told = httpx.post(f"{settings.service_url}/predict", json=GOOD, timeout=30).json()
        assert told["served_by"] in {"champion", "previous", "rule"}
        assert told["model_version"] is not None
    finally:
        for process in (*mlflow.children(recursive=True), mlflow):
            process.send_signal(signal.SIGCONT)


def test_the_day_can_be_closed_again(world: dict[str, Any]) -> None:
    """Ingesting, labelling and computing a day again leaves every table as it was."""
    from flows.features import build_features
    from flows.ingest import ingest_period
    from flows.label import label_period

    project, day = world["project"], world["project"].day(TODAY)
    before = project.lake.hashes()
    assert {m.status for m in ingest_period(project, day)} == {"unchanged"}
    build_features(project, day)
    label_period(project.lake, project.journal, project.problem, day)
    assert project.lake.hashes() == before


def test_the_home_holds_everything(world: dict[str, Any]) -> None:
    """What ran wrote under its home."""
    home: Path = world["settings"].home
    assert {"lake", "feast", "journal", "models", "prefect", "mlflow", "logs"} <= {
        p.name for p in home.iterdir()
    }
