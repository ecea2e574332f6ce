"""The second problem runs through the same generic code: the seam is real."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Period
from flows.clean_process import answer_in_clean_process
from flows.features import build_features, materialize_period
from flows.ingest import ingest_period
from flows.package import write_package
from flows.project import Project
from flows.train import fit, measure, measure_importance, predict
from flows.training_set import TrainingSet, build_training_set, split_by_time
from services.package import load_package
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
TODAY = toy.START + timedelta(days=28)


@pytest.fixture
def project(make_toy: Callable[..., Project]) -> Project:
    """Return the toy problem with four weeks landed and its features computed."""
    project = make_toy()
    period = Period(toy.START, TODAY)
    ingest_period(project, period)
    materialize_period(project, build_features(project, period), period)
    return project


def train(project: Project, folder: Path) -> tuple[TrainingSet, pl.DataFrame]:
    """Fit, package into the folder, and return the training set and the scored holdout."""
    training = build_training_set(project, TODAY)
    fitted, holdout = split_by_time(training.rows, project.problem, timedelta(days=7), TODAY)
    estimator = fit(project.build_estimator(project.problem), fitted, project.problem)
    holdout = holdout.with_columns(score=pl.Series(predict(estimator, holdout, project.problem)))
    importance = measure_importance(estimator, holdout, project.problem)
    metrics = measure(holdout["returned"].to_numpy(), holdout["score"].to_numpy())
    write_package(folder, project.problem, estimator, training, fitted, holdout, importance, metrics)
    return training, holdout


def test_a_model_of_the_toy_problem_trains_and_answers_in_a_clean_process(
    project: Project, tmp_path: Path
) -> None:
    """From batches to a package that another process loads and that beats a coin."""
    training, holdout = train(project, tmp_path / "model")
    package = load_package(tmp_path / "model", "1")
    assert package.contract["metrics"]["auc"] > 0.6
    assert package.contract["snapshot"] == training.snapshot.id
    rows = holdout.head(50)
    answers = package.predict(rows.select(toy.TOY.feature_names).to_dicts())
    assert answers == pytest.approx(rows["score"].to_list(), abs=1e-9)
    latency, complaint = answer_in_clean_process(tmp_path / "model")
    assert complaint == ""
    assert latency is not None


def test_a_damaged_package_does_not_answer(project: Project, tmp_path: Path) -> None:
    """A clean process says why it cannot load what it was given."""
    train(project, tmp_path / "model")
    (tmp_path / "model" / "model.skops").write_bytes(b"not a model")
    latency, complaint = answer_in_clean_process(tmp_path / "model")
    assert latency is None
    assert complaint


def test_the_same_snapshot_gives_the_same_training_set(project: Project) -> None:
    """A training set is rebuilt from its snapshot to the same hash, whatever has landed since."""
    first = build_training_set(project, TODAY)
    ingest_period(project, Period(TODAY, TODAY + timedelta(days=1)))
    build_features(project, Period(TODAY, TODAY + timedelta(days=1)))
    again = build_training_set(project, TODAY, project.lake.load_snapshot(first.snapshot.id))
    assert again.sha256 == first.sha256


def test_online_equals_offline_and_an_old_value_is_not_served(project: Project) -> None:
    """Within its freshness limit a stored value equals the point-in-time one; beyond it there is none."""
    late = TODAY + timedelta(hours=1)
    asked = pl.DataFrame(
        {
            "order_id": [f"new-{shop}" for shop in toy.SHOPS],
            "shop": list(toy.SHOPS),
            "amount": [50.0] * 4,
            "ordered_at": [late] * 4,
            "decided_at": [late] * 4,
        },
        schema_overrides={"ordered_at": toy.INSTANT, "decided_at": toy.INSTANT},
    )
    offline = project.store.read_historical(asked)["shop_returned_1d"].to_list()
    online = project.store.read_online(asked.to_dicts())
    assert [vector.values["shop_returned_1d"] for vector in online] == offline
    assert None not in offline
    old = asked.with_columns(decided_at=pl.lit(TODAY + timedelta(hours=7)).cast(toy.INSTANT))
    for vector in project.store.read_online(old.to_dicts()):
        assert vector.values["shop_returned_1d"] is None
        assert vector.expired["shop_returned_1d"] == 7 * 3600


def test_an_unknown_key_is_missing_not_zero(project: Project) -> None:
    """A shop that the store never heard of has no value, and says so."""
    row = {"shop": "moon", "decided_at": TODAY}
    assert project.store.read_online([row])[0].missing == ("shop_returned_1d",)


def test_a_change_of_the_statement_changes_feasts_objects(project: Project) -> None:
    """Feast's freshness limit is the one that the problem states."""
    from feature_repo.definitions import build_objects

    table = dataclasses.replace(toy.SHOP_DAY, ttl=timedelta(hours=1))
    changed = dataclasses.replace(toy.TOY, feature_tables=(table,))
    assert build_objects(changed)["shop_day"].ttl == timedelta(hours=1)
