"""Lineage that a person can ask for: an answer back to its files, a batch forward to all it touched."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from feature_repo.lake import Lake
from feature_repo.settings import Settings
from flows.cli.trace import draw_batch_trace, draw_trace
from flows.cli.trace import trace as trace_command
from flows.corrections import follow_corrections, restate_period
from flows.features import build_features, materialize_period
from flows.ingest import ingest_period
from flows.lineage import open_emitter
from flows.manifests import STOPPED, landed_batches, read_manifests, record_manifests
from flows.project import Project
from flows.trace import Trace, trace_prediction
from flows.trace_batch import trace_batch
from flows.train import Candidate, train_candidate
from services.journal import Prediction, format_instant
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
DAYS = 46
TODAY = toy.START + timedelta(days=DAYS)
TRAINED = TODAY - timedelta(days=1)
HOUR = timedelta(hours=1)
ANSWER = "02-15-050"  # an answer of the version, on a tick four hours old


class LocalSettings(Settings):
    """Settings of a home whose MLflow is a database file."""

    @property
    def mlflow_url(self) -> str:
        """Return the address of the file."""
        return f"sqlite:///{self.home / 'mlflow.db'}"


def open_toy(home: Path, settings: type[Settings] = LocalSettings) -> Project:
    """Return the toy problem on a home."""
    return Project(
        settings=settings(home=home, mlflow_port=9),
        problem=toy.TOY,
        fetch=toy.open_toy_source(DAYS),
        suite=toy.suite,
        add_check_columns=toy.add_check_columns,
        build_estimator=toy.build_estimator,
        lake=Lake(home / "lake"),
    )


@dataclasses.dataclass(frozen=True)
class Home:
    """A home with everything on it: six weeks of batches, a model, answers with the tick that each used."""

    project: Project
    candidate: Candidate
    answers: dict[str, Prediction]
    ticks: dict[str, datetime | None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Batches of some days, 100 answers after each of the last four, a version trained after the third."""
    from mlflow import MlflowClient

    project = open_toy(tmp_path_factory.mktemp("home"))
    url = project.settings.mlflow_url
    artifacts = str(project.settings.home / "artifacts")
    MlflowClient(url, url).create_experiment(toy.TOY.name, artifact_location=artifacts)
    ends = [toy.START + timedelta(days=n) for n in (0, 30, 40, 42, 43, 44, 45)]
    candidate, answers, ticks = None, {}, {}
    for since, until in zip(ends, [*ends[1:], TODAY], strict=True):
        period = Period(since, until)
        ingest_period(project, period)
        materialize_period(project, build_features(project, period), period)
        if until == TRAINED:
            candidate = train_candidate(project, TRAINED, "a test")
            project.package(candidate.version)
        if until > TODAY - timedelta(days=4):
            for answer, tick in give_answers(project, until, str(candidate.version) if candidate else None):
                answers[answer.prediction_id], ticks[answer.prediction_id] = answer, tick
    assert candidate is not None
    return Home(project, candidate, answers, ticks)


def give_answers(
    project: Project, online: datetime, version: str | None
) -> list[tuple[Prediction, datetime | None]]:
    """Journal 100 answers of the eight hours after a materialization, each with the tick that it used."""
    given: list[tuple[Prediction, datetime | None]] = []
    for n in range(100):
        decided, shop = online + n * timedelta(minutes=5), toy.SHOPS[n % 4]
        (vector,) = project.store.read_online([{"shop": shop, "decided_at": decided}])
        features = {"shop": shop, "amount": 50.0, "hour": float(decided.hour), **vector.values}
        name = f"{online:%m-%d}-{n:03}"
        request = {"order_id": name, "shop": shop, "amount": 50.0, "ordered_at": decided.isoformat()}
        answer = Prediction(
            prediction_id=name,
            entity=name,
            requested_at=format_instant(decided),
            received_at=format_instant(datetime.now(UTC)),
            model_version=version,
            served_by="champion" if version else "prior",
            reason="ok",
            score=0.25,
            features=json.dumps(features),
            flags="[]",
            request=json.dumps(request),
        )
        given.append((answer, online if decided - online <= toy.SHOP_DAY.ttl else None))
    with project.journal as journal:
        journal.append([answer for answer, _ in given])
    return given


def expect_touched(home: Home, batch_id: str) -> set[str]:
    """Return, one answer at a time, those with a row of the batch among their feature's source rows."""
    rows = home.project.lake.read("returns").filter(pl.col("batch_id") == batch_id)
    known = {shop: rows.filter(pl.col("shop") == shop)["known_at"].to_list() for shop in toy.SHOPS}
    return {
        name
        for name, tick in home.ticks.items()
        if tick
        and any(
            tick - timedelta(days=1) <= at < tick
            for at in known[json.loads(home.answers[name].request)["shop"]]
        )
    }


def list_ids(found: tuple) -> set[str]:
    """Return the ids of grouped answers."""
    return {one for group in found for one in group.ids}


def render(tree: object) -> str:
    """Return a tree as text."""
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(tree)
    return console.export_text()


def test_an_answer_leads_to_its_model_run_and_training_snapshot(home: Home) -> None:
    """Version, run, snapshot with table versions, and the training set's hash and rows."""
    model = trace_prediction(home.project, ANSWER).model
    assert model is not None
    training = home.candidate.training
    assert (model.version, model.run_id) == (str(home.candidate.version), home.candidate.run_id)
    assert model.run_name
    assert home.candidate.run_id in (model.run_url or "")
    assert model.snapshot == training.snapshot.id
    assert model.table_versions == training.snapshot.versions
    assert model.training_set_sha256 == training.sha256
    assert (model.rows_fitted, model.rows_held_out) == (
        len(home.candidate.fitted),
        len(home.candidate.holdout),
    )
    assert model.notes == ()


def test_an_answer_leads_to_rows_batches_and_files(home: Home) -> None:
    """The value is the stored one; its rows are all of that shop in the day before the tick."""
    answer = home.answers[ANSWER]
    (row,) = trace_prediction(home.project, answer.prediction_id).features
    tick, shop = home.ticks[ANSWER], json.loads(answer.request)["shop"]
    assert tick
    assert (row.table, row.tick, row.keys) == ("shop_day", tick, {"shop": shop})
    assert row.logged
    assert row.agrees
    assert row.age == datetime.fromisoformat(answer.requested_at) - tick
    (source,) = row.sources
    read = home.project.lake.read("returns", Period(tick - timedelta(days=1), tick)).filter(
        pl.col("shop") == shop
    )
    assert source.rows == len(read)
    assert sum(origin.rows for origin in source.batches) == len(read)
    assert {origin.batch_id for origin in source.batches} == set(read["batch_id"])
    assert {file["sha256"] for origin in source.batches for file in origin.files} == {"0" * 64}
    assert {origin.status for origin in source.batches} == {"landed"}


def test_without_mlflow_the_run_is_unknown_and_the_rest_is_told(home: Home) -> None:
    """What the home itself holds does not need a server."""
    project = open_toy(home.project.settings.home, Settings)
    found = trace_prediction(project, ANSWER)
    assert found.model is not None
    assert found.model.run_id is None
    assert found.model.snapshot == home.candidate.training.snapshot.id
    assert any("MLflow" in note for note in found.model.notes)
    assert found.features[0].sources[0].rows > 0
    assert [model.version for model in trace_batch(project, "returns-20240131").models] == [
        found.model.version
    ]


def test_an_answer_on_other_values_says_so(home: Home) -> None:
    """A recorded value that the store does not hold is shown beside the stored one."""
    features = {**json.loads(home.answers[ANSWER].features), "shop_returned_1d": 0.123}
    odd = home.answers[ANSWER]._replace(prediction_id="odd", features=json.dumps(features))
    with home.project.journal as journal:
        journal.append([odd])
    (row,) = trace_prediction(home.project, "odd").features
    assert not row.agrees
    assert "0.123" in render(draw_trace(trace_prediction(home.project, "odd")))


def test_the_tree_names_everything(home: Home) -> None:
    """Ids, hashes and files are there for a person to read; rows only if asked for."""
    found: Trace = trace_prediction(home.project, ANSWER)
    text = render(draw_trace(found))
    batches = found.features[0].sources[0].batches
    for name in (
        home.candidate.run_id,
        found.model.snapshot,
        batches[0].batch_id,
        "0" * 64,
        "made up, seed 0",
    ):
        assert name in text
    first = found.features[0].sources[0].first_rows[0]["order_id"]
    assert first not in text
    assert first in render(draw_trace(found, rows=True))


def test_an_answer_on_an_expired_value_used_no_row(home: Home) -> None:
    """What was online was too old: the answer had no value, and the trace says so."""
    (row,) = trace_prediction(home.project, "02-15-099").features
    assert (row.tick, row.agrees, row.logged) == (None, True, True)
    assert "no row that may be used" in render(draw_trace(trace_prediction(home.project, "02-15-099")))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_batch_touches_the_answers_whose_features_came_from_it(home: Home, number: int) -> None:
    """Exactly those, as found one by one."""
    batch = landed_batches(read_manifests(home.project.lake), "returns")[number]
    found = trace_batch(home.project, batch.batch_id, ids=True)
    expected = expect_touched(home, batch.batch_id)
    assert list_ids(found.by_features) - {"odd"} == expected
    assert bool(expected) == (number >= 3)
    assert found.rows_found == batch.accepted
    assert found.features[0].rows > 0


def test_a_batch_touches_the_models_trained_on_it_and_their_answers(home: Home) -> None:
    """A batch before the training is in its snapshot; one after is not."""
    batches = landed_batches(read_manifests(home.project.lake), "orders")
    before, after = (
        trace_batch(home.project, batches[0].batch_id),
        trace_batch(home.project, batches[-1].batch_id),
    )
    (model,) = before.models
    assert (model.version, model.rows) == (str(home.candidate.version), batches[0].accepted)
    assert before.by_model[0].answers >= 200
    assert before.answers == before.by_model[0].answers
    assert after.models == ()
    assert after.answers == 0
    text = render(draw_batch_trace(before))
    assert batches[0].batch_id in text
    assert home.candidate.training.snapshot.id in text


def test_a_batch_is_found_by_the_beginning_of_its_id(home: Home) -> None:
    """And an unknown one gets the nearest ids."""
    assert trace_batch(home.project, "orders-20240101").batch.table == "orders"
    with pytest.raises(NotEnoughData, match="orders-20240101"):
        trace_batch(home.project, "ordesr-20240101T0000")
    with pytest.raises(NotEnoughData, match="7 batches"):
        trace_batch(home.project, "orders")


def test_the_command_prints_whole_hashes_and_json(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a pipe too, where nobody says how wide a line may be; rows only if asked for."""
    monkeypatch.setattr("flows.project.open_project", lambda settings: home.project)
    app = typer.Typer()
    app.command()(trace_command)
    sha256 = home.candidate.training.sha256
    assert sha256 in CliRunner().invoke(app, [ANSWER]).stdout
    told = json.loads(CliRunner().invoke(app, [ANSWER, "--json"]).stdout)
    assert told["model"]["training_set_sha256"] == sha256
    assert "first_rows" not in told["features"][0]["sources"][0]
    with_rows = json.loads(CliRunner().invoke(app, [ANSWER, "--json", "--rows"]).stdout)
    assert with_rows["features"][0]["sources"][0]["first_rows"]
    forward = CliRunner().invoke(app, ["--batch", "returns-20240214", "--ids", "--json"])
    assert ANSWER in json.loads(forward.stdout)["by_features"][0]["ids"]


def test_an_unknown_answer_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    """The command says so in words of ours, on a home without a journal too."""
    app = typer.Typer()
    app.command()(trace_command)
    done = CliRunner().invoke(app, ["no-such-answer"], obj=Settings(home=tmp_path))
    assert isinstance(done.exception, NotEnoughData)
    assert "prediction_id" in str(done.exception)
    assert CliRunner().invoke(app, [], obj=Settings(home=tmp_path)).exit_code == 2


def test_a_stopped_batch_touched_nothing(home: Home) -> None:
    """Nothing of it landed."""
    batch = landed_batches(read_manifests(home.project.lake), "returns")[0]
    stopped = dataclasses.replace(
        batch,
        batch_id="returns-stopped",
        status=STOPPED,
        since=batch.since - HOUR,
        until=batch.since,
        accepted=0,
    )
    record_manifests(home.project.lake, [stopped])
    found = trace_batch(home.project, "returns-stopped")
    assert (found.answers, found.models, found.features) == (0, (), ())
    assert "stopped" in found.notes[0]


def test_a_runs_dataset_inputs_name_snapshot_tables_and_versions(home: Home) -> None:
    """MLflow shows the training set by its hash, the holdout, and each lake table at its version."""
    from mlflow import MlflowClient

    url, training = home.project.settings.mlflow_url, home.candidate.training
    run = MlflowClient(url, url).get_run(home.candidate.run_id)
    inputs = [({tag.key: tag.value for tag in one.tags}, one.dataset) for one in run.inputs.dataset_inputs]
    by_context: dict[str, list] = {}
    for tags, dataset in inputs:
        by_context.setdefault(tags["mlflow.data.context"], []).append((tags, dataset))
    ((tags, fitted),) = by_context["training"]
    assert training.sha256.startswith(fitted.digest)
    assert json.loads(fitted.source)["tags"]["perennial.snapshot"] == training.snapshot.id
    assert json.loads(fitted.profile) == {"num_rows": len(home.candidate.fitted)}
    assert tags["training_set_sha256"] == training.sha256
    assert [tags["rows"] for tags, _ in by_context["evaluation"]] == [str(len(home.candidate.holdout))]
    versions = {dataset.name: int(tags["version"]) for tags, dataset in by_context["lake"]}
    assert versions == training.snapshot.versions
    sources = {dataset.name: json.loads(dataset.source) for _, dataset in by_context["lake"]}
    assert sources["orders"]["path"] == str(home.project.lake.root / "orders")
    assert sources["orders"]["delta_table_version"] == versions["orders"]


def test_a_training_is_told_as_an_event(home: Home) -> None:
    """Its inputs are the snapshot's tables at their versions, its output the model version."""
    path = home.project.settings.home / "lineage" / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    trained = [event for event in events if event["job"]["name"] == "toy-returns.train"]
    assert [event["eventType"] for event in trained] == ["START", "COMPLETE"]
    read = {Path(d["name"]).name: int(d["facets"]["version"]["datasetVersion"]) for d in trained[1]["inputs"]}
    assert read == home.candidate.training.snapshot.versions
    assert trained[1]["outputs"][0]["facets"]["version"]["datasetVersion"] == str(home.candidate.version)
    assert trained[1]["run"]["facets"]["perennial"]["mlflowRunId"] == home.candidate.run_id
    assert open_emitter(home.project.settings.home).failures == 0


def test_a_superseded_batch_is_found_in_the_snapshot_that_was_trained_on(home: Home) -> None:
    """What a correction replaced is still in the model that learned from it."""
    batch = landed_batches(read_manifests(home.project.lake), "returns")[4]
    fetch = home.project.fetch

    def tell_otherwise(table: str, period: Period):
        told = fetch(table, period)
        flipped = (1 - pl.col("returned")).cast(pl.Int8)
        return (
            dataclasses.replace(told, frame=told.frame.with_columns(returned=flipped))
            if table == "returns"
            else told
        )

    corrected = dataclasses.replace(home.project, fetch=tell_otherwise)
    (manifest,) = restate_period(corrected, batch.period)
    follow_corrections(corrected)
    found, instead = trace_batch(corrected, batch.batch_id), trace_batch(corrected, manifest.batch_id)
    assert found.batch.status == "superseded"
    assert found.rows_found == batch.accepted
    assert [model.version for model in found.models] == [str(home.candidate.version)]
    assert instead.rows_found == manifest.accepted
    assert instead.models == ()
