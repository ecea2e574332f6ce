"""What is told of each feature is so, and what is useless is named."""

import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from feature_repo.fingerprint import describe_problem
from feature_repo.problem import PROBLEM
from feature_repo.settings import Settings
from feature_repo.source_columns import find_columns, find_request_fields
from flows.cli.features import features
from flows.feature_report import FeatureReport, report_features
from flows.features import build_features
from flows.ingest import ingest_period
from flows.live_definitions import LiveModel, remember_live_models
from flows.policy.skew import FeatureSkew, SkewVerdict
from flows.project import Project
from flows.skew import SkewReport, keep_report
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def constant(raw, ticks) -> pl.DataFrame:
    """Return one number, and nothing, whatever the rows."""
    shares = toy.shop_returns(raw, ticks)
    return shares.select("shop", "event_timestamp", shop_one=pl.lit(1.0), shop_none=pl.lit(None, pl.Float64))


CONSTANT = dataclasses.replace(
    toy.SHOP_DAY,
    name="shop_constant",
    features={"shop_one": pl.Float64, "shop_none": pl.Float64},
    compute=constant,
    owner="somebody",
    meanings={"shop_one": "One"},
)


@pytest.fixture
def project(make_toy: Callable[..., Project], toy_day: Callable[[int], Period]) -> Project:
    """Return five landed days, a table that says nothing, and a champion that was trained on the other."""
    plain = make_toy(days=8)
    tables = (toy.SHOP_DAY, CONSTANT)
    project = dataclasses.replace(plain, problem=dataclasses.replace(toy.TOY, feature_tables=tables))
    for n in range(5):
        ingest_period(project, toy_day(n))
    build_features(project, Period(toy_day(3).since, toy_day(4).until - timedelta(hours=6)))
    remember_live_models(project, [LiveModel(2, ("champion", "previous"), describe_problem(toy.TOY))])
    importance = {"shop_returned_1d": 0.02, "amount": 0.0}
    told = [{"name": n, "importance": importance.get(n, 0.01)} for n in toy.TOY.feature_names]
    package = project.settings.home / "packages" / "2"
    package.mkdir(parents=True)
    (package / "contract.json").write_text(json.dumps({"features": told}))
    return project


def report(project: Project) -> dict[str, FeatureReport]:
    return {feature.name: feature for feature in report_features(project)[0]}


def test_each_feature_is_told_with_its_source_models_and_state(project: Project) -> None:
    """Type, owner, source columns, models, importance, nulls, age and cost stand side by side."""
    told = report(project)["shop_returned_1d"]
    assert (told.table, told.type, told.fresh_for) == ("shop_day", "Float64", "6:00:00")
    assert told.columns == {"returns": ("shop", "returned", "known_at")}
    assert (told.versions, told.aliases, told.importance) == ((2,), ("champion", "previous"), 0.02)
    assert (told.null_share, told.age_hours, told.skew) == (0.0, 6.0, None)
    assert told.cost_ms > 0
    assert (told.unused, told.dead) == (False, "")
    assert report(project)["shop_one"].owner == "somebody"


def test_unused_and_dead_features_are_named(project: Project) -> None:
    """No model takes it; it never changes, is never there, or matters to no live model."""
    told = report(project)
    assert {name for name, one in told.items() if one.unused} == {"shop_one", "shop_none"}
    assert {name: one.dead for name, one in told.items() if one.dead} == {
        "shop_one": "one value throughout the last 7 days",
        "shop_none": "null throughout the last 7 days",
        "amount": "of no importance in any live model",
    }


def count(name: str, compared: int, wrong: int) -> FeatureSkew:
    return FeatureSkew(name, 4, compared, wrong, 4 - compared, 0, None, None, ())


def test_the_newest_skew_is_told(project: Project, toy_day: Callable[[int], Period]) -> None:
    """What the probe found last stands beside the feature, and nothing where it had nothing to compare."""
    for n, wrong in ((1, 4), (0, 2)):
        keep_report(project, SkewReport(toy_day(n), 4, 0, SkewVerdict((count("shop_one", 4, wrong),), ())))
    assert report(project)["shop_one"].skew == 1.0
    counts = (count("shop_one", 4, 1), count("shop_none", 0, 0))
    keep_report(project, SkewReport(toy_day(2), 4, 0, SkewVerdict(counts, ())))
    told = report(project)
    assert (told["shop_one"].skew, told["shop_none"].skew) == (0.25, None)


def test_a_feature_that_was_never_computed_is_told_too(make_toy: Callable[..., Project]) -> None:
    """Without a lake and without a registry, what is stated is told, and that nobody answered."""
    found, uses = report_features(make_toy())
    assert [feature.name for feature in found] == ["shop_returned_1d", "shop", "amount", "hour"]
    assert found[0].age_hours is None
    assert uses.trouble
    assert {feature.unused for feature in found} == {None}


def test_an_input_of_the_request_is_told_with_the_fields_that_it_reads() -> None:
    """One that the request states is its own field; one that is made reads those whose loss changes it."""
    assert find_request_fields(toy.TOY) == {"shop": ("shop",), "amount": ("amount",), "hour": ("ordered_at",)}
    found = find_request_fields(PROBLEM)
    assert (found["carrier"], found["distance"]) == (("carrier",), ("distance",))
    assert found["local_hour"] == found["weekday"] == ("scheduled_departure",)


def test_a_request_function_that_cannot_be_tried_reads_all_fields() -> None:
    """What cannot be told is not left out."""

    def fragile(requests: pl.DataFrame) -> pl.DataFrame:
        return toy.add_request_features(requests.filter(pl.col("amount") < 0))

    odd = dataclasses.replace(toy.TOY, add_request_features=fragile)
    assert find_request_fields(odd)["hour"] == ("ordered_at", "amount")


def test_a_table_that_does_not_run_on_nothing_reads_all_columns() -> None:
    """What cannot be told is not left out."""

    def fragile(raw, ticks):
        return toy.shop_returns(raw, ticks).with_columns(first=raw["returns"]["returned"].item())

    table = dataclasses.replace(toy.SHOP_DAY, compute=fragile)
    assert find_columns(toy.TOY, table) == {"returns": tuple(toy.RETURNS.schema)}


def test_the_command_tells_programs_and_people(tmp_path: Path) -> None:
    """The bundled problem's features come as JSON and as a table, each with its owner."""
    app = typer.Typer()
    app.command()(features)
    settings = Settings(home=tmp_path, mlflow_port=1)
    done = CliRunner().invoke(app, ["--json"], obj=settings)
    told = json.loads(done.stdout)["features"]
    assert all(one["owner"] and one["meaning"] and one["columns"] for one in told)
    done = CliRunner().invoke(app, ["--table", "airport_weather"], obj=settings)
    assert "unused: unknown" in done.stdout
    assert "no live model" not in done.stdout
    assert "models as last known here" in done.stdout


def test_every_name_is_whole_at_eighty_columns(tmp_path: Path) -> None:
    """A feature is one line or two of a narrow terminal, under what holds for its whole table."""
    app = typer.Typer()
    app.command()(features)
    done = CliRunner().invoke(app, [], obj=Settings(home=tmp_path, mlflow_port=1), env={"COLUMNS": "80"})
    words = [word.rstrip(":") for word in done.stdout.split()]
    assert {*PROBLEM.feature_names, *(table.name for table in PROBLEM.feature_tables)} <= {*words}
    assert "…" not in done.stdout
    asked = [one for one in PROBLEM.features if one.source == "request"]
    stated = len(asked) + sum(len(table.features) for table in PROBLEM.feature_tables)
    assert len(done.stdout.splitlines()) < 2 * stated


def test_a_table_that_is_not_stated_is_refused_with_the_names_of_those_that_are(tmp_path: Path) -> None:
    """A slip of the pen is not answered with an empty table."""
    app = typer.Typer()
    app.command()(features)
    done = CliRunner().invoke(app, ["--table", "nosuch"], obj=Settings(home=tmp_path, mlflow_port=1))
    assert isinstance(done.exception, NotEnoughData)
    assert "airport_weather" in str(done.exception)
    done = CliRunner().invoke(
        app, ["--table", "request", "--json"], obj=Settings(home=tmp_path, mlflow_port=1)
    )
    assert {one["unused"] for one in json.loads(done.stdout)["features"]} == {None}
