"""Two versions of a feature table, and the models that take one or the other, stand side by side."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.request_inputs import SideBySide
from flows.features import build_features
from flows.gate_evidence import score_rivals
from flows.ingest import ingest_period
from flows.package import write_package
from flows.project import Project
from flows.train import Candidate, fit, measure, predict
from flows.training_set import build_training_set, split_by_time
from services.package import load_package
from tests import toy
from tests.packages import FakeRegistry

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
TODAY = toy.START + timedelta(days=21)


def inverted(raw, ticks) -> pl.DataFrame:
    """Return the share that was kept, under the old name."""
    return toy.shop_returns(raw, ticks).with_columns(1 - pl.col("shop_returned_1d"))


def rename_request(requests: pl.DataFrame) -> pl.DataFrame:
    """Add the hour as a share of the day, beside the old hour."""
    return requests.with_columns(hour_v2=pl.col("hour") / 24)


SECOND = dataclasses.replace(toy.SHOP_DAY, version=2, compute=inverted)
SHOP, AMOUNT, HOUR, SHARE = toy.TOY.features
TOY_V2 = dataclasses.replace(
    toy.TOY,
    feature_tables=(toy.SHOP_DAY, SECOND),
    features=(
        SHOP,
        AMOUNT,
        dataclasses.replace(HOUR, name="hour_v2"),
        dataclasses.replace(SHARE, name="shop_returned_1d_v2", source="shop_day_v2"),
    ),
    feature_service="toy_v2",
    add_request_features=SideBySide((toy.add_request_features, rename_request)),
    rule_by="hour_v2",
    calendar=frozenset({"hour_v2"}),
)


def train(project: Project, folder: Path) -> tuple[Candidate, object]:
    training = build_training_set(project, TODAY)
    fitted, holdout = split_by_time(training.rows, project.problem, timedelta(days=5), TODAY)
    estimator = fit(project.build_estimator(project.problem), fitted, project.problem)
    holdout = holdout.with_columns(score=pl.Series(predict(estimator, holdout, project.problem)))
    metrics = measure(holdout["returned"].to_numpy(), holdout["score"].to_numpy())
    write_package(folder, project.problem, estimator, training, fitted, holdout, {}, metrics)
    return Candidate(0, "run", training, fitted, holdout, metrics), estimator


def test_a_candidate_is_judged_beside_a_champion_of_the_older_feature_service(
    make_toy: Callable[..., Project], tmp_path: Path
) -> None:
    """Each is given its own inputs, of the same rows; the champion scores as it always did."""
    first = make_toy()
    period = Period(toy.START, TODAY)
    ingest_period(first, period)
    build_features(first, period)
    champion, _ = train(first, tmp_path / "first")
    second = dataclasses.replace(first, problem=TOY_V2)
    build_features(second, period)
    candidate, _ = train(second, tmp_path / "second")
    assert load_package(tmp_path / "first").contract["feature_service"] == "toy_v1"
    registry = FakeRegistry()
    registry.register(tmp_path / "first", "run", {})
    registry.named = {"champion": 1}
    second.__dict__["registry"] = registry
    rivals = score_rivals(second, candidate, tmp_path / "gate")
    as_ever = champion.holdout.select("order_id", before="score")
    both = rivals.rows.with_columns(champion=pl.Series(rivals.scores["champion"])).join(
        as_ever, on="order_id"
    )
    whole = champion.holdout.filter(pl.col("decided_at") < TODAY - toy.TOY.horizon)  # no label may still come
    assert len(both) == len(whole) > 0
    assert both["champion"].to_list() == pytest.approx(both["before"].to_list(), abs=1e-9)
