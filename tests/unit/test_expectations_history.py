"""What a table's own past allows the next batch to be."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from expectations.history import FEWEST, rules_from_history
from feature_repo.contract import Period, RawTable

START = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday
TABLE = RawTable("sales", {"id": pl.String, "known_at": pl.Datetime("us", "UTC")}, key=("id",))
Measures = Mapping[str, float]


def calm_day(n: int) -> Measures:
    """Return a day's measures: half the volume at weekends, a little noise, never a null."""
    rows = (500 if n % 7 >= 5 else 1000) + n % 3
    spread = {"x.p05": 10 + n % 2, "x.p50": 50 + n % 4, "x.p95": 90 + n % 3}
    year = {"year.p05": 2024.0, "year.p50": 2024.0, "year.p95": 2024.0}
    return {"rows": rows, "age_hours": 0.1, "x.null_share": 0.0, "shop.distinct": 20, **spread, **year}


def make_history(days: int, day: Callable[[int], Measures] = calm_day, hours: int = 24) -> pl.DataFrame:
    """Return the measures of earlier batches, each of `hours`."""
    rows = [
        (
            f"b{n}",
            START + timedelta(hours=n * hours),
            START + timedelta(hours=(n + 1) * hours),
            name,
            float(value),
        )
        for n in range(days)
        for name, value in day(n).items()
    ]
    instant = pl.Datetime("us", "UTC")
    schema = {
        "batch_id": pl.String,
        "since": instant,
        "until": instant,
        "measure": pl.String,
        "value": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def judge_day(history: pl.DataFrame, n: int, measures: Measures, zone: str = "UTC") -> dict[str, str]:
    """Return, by measure, how severely day `n` breaks what its past allows."""
    period = Period(START + timedelta(days=n), START + timedelta(days=n + 1))
    broken = {}
    for rule in sorted(
        rules_from_history(TABLE, history, period, zone), key=lambda r: r.severity, reverse=True
    ):
        value = measures.get(rule.columns[0])
        low, high = rule.arguments.get("min_value", -1e99), rule.arguments.get("max_value", 1e99)
        if value is not None and not low <= value <= high:
            broken[rule.columns[0]] = rule.severity
    return broken


def test_a_day_like_its_past_breaks_nothing() -> None:
    """A calm table stays calm, weekends and turn of the year included."""
    for n in range(FEWEST, 60):
        assert judge_day(make_history(n), n, {**calm_day(n), "year.p50": 2024 + n // 50}) == {}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"rows": 600}, {"rows": "warning"}),
        ({"rows": 100}, {"rows": "critical"}),
        ({"rows": 2500}, {"rows": "critical"}),
        ({"age_hours": 5}, {"age_hours": "warning"}),
        ({"age_hours": 12}, {"age_hours": "critical"}),
        ({"x.null_share": 0.2}, {"x.null_share": "warning"}),
        ({"x.null_share": 0.9}, {"x.null_share": "critical"}),
        ({"shop.distinct": 3}, {"shop.distinct": "critical"}),
        ({"shop.distinct": 19}, {}),
        ({"x.p95": 5400}, {"x.p95": "critical"}),
        ({"x.p50": 80}, {"x.p50": "warning"}),
    ],
)
def test_near_is_told_and_far_stops(change: Measures, wanted: dict[str, str]) -> None:
    """Day 56 is a Monday: what is a little off is a warning, what is far off stops the batch."""
    assert judge_day(make_history(56), 56, {**calm_day(56), **change}) == wanted


def test_volume_is_held_against_the_same_weekday() -> None:
    """500 rows are a usual Saturday and too few for a Monday."""
    assert judge_day(make_history(61), 61, {"rows": 500}) == {}
    assert judge_day(make_history(63), 63, {"rows": 500}) == {"rows": "warning"}


def test_nulls_that_creep_up_a_point_a_day_are_stopped_though_the_window_moves_with_them() -> None:
    """Every batch landed so far, so the window holds the rise itself."""

    def creeping(n: int) -> Measures:
        return {**calm_day(n), "x.null_share": max(0, n - 30) * 0.01}

    levels = {
        n: judge_day(make_history(n, creeping), n, creeping(n)).get("x.null_share") for n in range(30, 60)
    }
    assert levels[32] is None
    assert all(levels[n] == "critical" for n in range(40, 60))


def test_nulls_that_crept_from_the_first_day_on_are_stopped_too() -> None:
    """There need be no clean past: two weeks of steady rise are enough."""

    def creeping(n: int) -> Measures:
        return {**calm_day(n), "x.null_share": n * 0.01}

    assert judge_day(make_history(FEWEST, creeping), FEWEST, creeping(FEWEST)) == {"x.null_share": "critical"}


def test_a_share_that_comes_and_goes_by_nature_is_let_be() -> None:
    """A column empty on half of the days may be empty, or full, today."""

    def moody(n: int) -> Measures:
        return {**calm_day(n), "x.null_share": 1.0 if n % 2 else 0.3}

    for share in (0.3, 0.6, 1.0):
        assert judge_day(make_history(40, moody), 40, {**calm_day(40), "x.null_share": share}) == {}


def test_a_short_past_and_other_lengths_say_nothing() -> None:
    """Below two weeks there are no rules; hours and days are not held against each other."""
    assert judge_day(make_history(FEWEST - 1), FEWEST - 1, {"rows": 1}) == {}
    assert judge_day(make_history(400, hours=1), 20, {"rows": 1}) == {}
    hour = Period(START + timedelta(days=30), START + timedelta(days=30, hours=1))
    assert rules_from_history(TABLE, make_history(30), hour, "UTC") == []
    assert rules_from_history(TABLE, make_history(0), hour, "UTC") == []


def test_days_of_23_and_25_hours_are_days() -> None:
    """The clock changes do not silence the past."""
    since = START + timedelta(days=30)
    for hours in (23, 25):
        assert rules_from_history(
            TABLE, make_history(30), Period(since, since + timedelta(hours=hours)), "UTC"
        )
