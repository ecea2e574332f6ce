"""The skew probe on another problem: it knows nothing of flights."""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import polars as pl
import pytest

from feature_repo.contract import Period
from flows.features import build_features
from flows.project import Project
from flows.skew import compare_answers
from services.answering import Answering
from services.metrics import Metrics
from tests import toy
from tests.contracts.test_service import WIRE
from tests.skew.harness import AsOfStore, NoModels


@pytest.mark.parametrize(("factor", "expected"), [(1.0, {}), (100.0, {"shop_returned_1d": "units"})])
def test_a_toy_problem_is_probed_by_the_same_code(
    make_toy: Callable[..., Project], factor: float, expected: dict[str, str]
) -> None:
    """Orders as they were answered give no finding; a share that was told in percent does."""
    project = make_toy(days=8)
    period = Period(toy.START, toy.START + timedelta(days=8))
    for table in project.problem.raw:
        project.lake.replace(table.name, project.fetch(table.name, period).frame, period, table.known_at)
    frames = build_features(project, period)
    told = {"shop_day": frames["shop_day"].with_columns(pl.col("shop_returned_1d") * factor)}
    orders = (
        project.lake.read("orders").filter(pl.col("ordered_at") > toy.START + timedelta(days=5)).head(300)
    )
    bodies = [
        msgspec.json.encode(row)
        for row in orders.select("order_id", "shop", "amount", "ordered_at").iter_rows(named=True)
    ]
    rows = [WIRE.to_row(WIRE.requests.read(body)[0][0]) for body in bodies]
    answering = Answering(project.problem, AsOfStore(project.problem, told), NoModels(), Metrics())
    answers = answering.answer(rows, bodies).predictions
    _, verdict = compare_answers(project, WIRE, answers)
    assert {one.name: one.cause.name for one in verdict.features if one.cause} == expected
    assert verdict.compared == 300 * len(project.problem.features)
