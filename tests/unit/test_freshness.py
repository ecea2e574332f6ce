"""What may be used of the online store's rows at an instant."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from prometheus_client import CollectorRegistry

from feature_repo.freshness import Freshness, OnlineVector, judge_ages
from feature_repo.online_tables import to_microseconds
from services.metrics import Metrics
from tests import toy

NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)
HOURLY = dataclasses.replace(
    toy.SHOP_DAY, name="hourly", features={"a": pl.Float64, "b": pl.Int64}, ttl=timedelta(hours=1)
)
DAILY = dataclasses.replace(
    toy.SHOP_DAY, name="daily", features={"c": pl.String, "d": pl.Boolean}, ttl=timedelta(days=1)
)
FRESHNESS = Freshness((HOURLY, DAILY))
HELD = (0.5, 3, "x", 1)


def judge(hourly: timedelta | None, daily: timedelta | None, values=HELD) -> OnlineVector:
    stamps = [None if age is None else to_microseconds(NOON - age) for age in (hourly, daily)]
    return FRESHNESS.judge(FRESHNESS.hold(stamps, values), NOON)


def test_fresh_values_are_numbers_or_text() -> None:
    """What is whole or true is a number to the model; the age of each view's row is told."""
    vector = judge(timedelta(hours=1), timedelta(0))
    assert vector[:3] == ({"a": 0.5, "b": 3.0, "c": "x", "d": 1.0}, (), {})
    assert vector.ages == {"hourly": 3600.0, "daily": 0.0}
    assert all(type(vector.values[name]) is float for name in "abd")


def test_a_row_older_than_its_limit_gives_nulls_and_its_age() -> None:
    """One microsecond is enough; the other view stays usable."""
    vector = judge(timedelta(hours=1, microseconds=1), timedelta(hours=2))
    assert vector.values == {"a": None, "b": None, "c": "x", "d": 1.0}
    assert vector.expired == {"a": 3600.000001, "b": 3600.000001}
    assert vector.missing == ()


def test_a_row_from_after_the_request_is_not_used() -> None:
    """Its age is negative."""
    vector = judge(timedelta(microseconds=-1), None)
    assert vector.expired == {"a": -1e-06, "b": -1e-06}
    assert (vector.missing, set(vector.values.values())) == (("c", "d"), {None})
    assert vector.ages == {"hourly": -1e-06}


def test_a_null_in_a_fresh_row_is_neither_missing_nor_expired() -> None:
    """It was observed to be null, and training had it as null."""
    vector = judge(timedelta(0), timedelta(0), (None, None, None, None))
    assert set(vector.values.values()) == {None}
    assert (vector.missing, vector.expired) == ((), {})


@pytest.mark.parametrize("age", [0, 59, 3_600, 3_601, 86_400, 90_000, -5])
def test_answers_by_column_are_judged_like_rows(age: int) -> None:
    """Feast's answers, in seconds and with NaN for null, give the same vector."""
    problem = dataclasses.replace(toy.TOY, feature_tables=(HOURLY, DAILY))
    stamp = (NOON - timedelta(seconds=age)).timestamp()
    values = {"a": [math.nan], "b": [3], "c": ["x"], "d": [True]}
    answer = {**values, **{f"{name}__ts": [int(stamp)] for name in values}}
    held = judge(timedelta(seconds=age), timedelta(seconds=age), (None, 3, "x", 1))
    assert judge_ages(problem, answer, 0, NOON) == held
    empty = {name: [0] if name.endswith("__ts") else [None] for name in answer}
    assert judge_ages(problem, empty, 0, NOON) == judge(None, None)


def test_the_oldest_row_of_each_view_in_a_request_is_counted() -> None:
    """Once a request and view, whatever the number of items; a view without a row is not counted."""
    counts = CollectorRegistry()
    Metrics(counts).note_vectors([judge(timedelta(minutes=5), None), judge(timedelta(hours=5), None)])
    name = "perennial_feature_age_seconds"
    assert counts.get_sample_value(f"{name}_count", {"view": "hourly"}) == 1
    assert counts.get_sample_value(f"{name}_sum", {"view": "hourly"}) == 5 * 3600
    assert counts.get_sample_value(f"{name}_count", {"view": "daily"}) is None


def test_what_was_made_of_a_row_is_not_used_once_a_part_of_it_has_expired() -> None:
    """The values are others then: some are null."""
    stamps = [to_microseconds(NOON - age) for age in (timedelta(hours=1), timedelta(0))]
    held = FRESHNESS.hold(stamps, HELD)
    fresh, again = (FRESHNESS.judge(held, NOON) for _ in range(2))
    assert fresh.memo is not None
    assert fresh.memo is again.memo
    late = FRESHNESS.judge(held, NOON + timedelta(seconds=1))
    assert late.expired
    assert late.memo is None
