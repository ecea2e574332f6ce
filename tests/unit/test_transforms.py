"""Features use only what was known before their tick, and come out the same however they are computed."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from feature_repo.contract import FeatureTable, Frames, Period
from feature_repo.problem import PROBLEM
from feature_repo.source import open_source
from feature_repo.transforms import add_request_features, daily_ticks, hourly_ticks

# The day on which the clocks go forward, and the week before it.
DAY = Period(datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 3, 11, 4, tzinfo=UTC))
TABLES = pytest.mark.parametrize("table", PROBLEM.feature_tables, ids=lambda table: table.name)


@pytest.fixture(scope="module")
def raw() -> Frames:
    """Return five weeks of every raw table, and one day more."""
    fetch = open_source()
    reach = Period(DAY.since - timedelta(days=35), DAY.until + timedelta(days=1))
    return {table.name: fetch(table.name, reach).frame for table in PROBLEM.raw}


def compute(table: FeatureTable, raw: Frames, period: Period) -> pl.DataFrame:
    """Return the table's rows for the period in a settled order."""
    frame = table.compute({name: raw[name] for name in table.reads}, table.ticks(period))
    return frame.select(sorted(frame.columns)).sort(*table.keys, "event_timestamp")


@TABLES
def test_what_comes_later_changes_nothing(table: FeatureTable, raw: Frames) -> None:
    """A tick's values are the same whether or not later rows are there to be seen."""
    known = {name: frame.filter(pl.col("known_at") < DAY.until) for name, frame in raw.items()}
    assert compute(table, raw, DAY).equals(compute(table, known, DAY))


@TABLES
def test_the_lookback_is_long_enough(table: FeatureTable, raw: Frames) -> None:
    """A batch computed from its lookback equals, to the bit, the same batch computed from everything."""
    reach = DAY.since - table.lookback
    cut = {name: frame.filter(pl.col("known_at") >= reach) for name, frame in raw.items()}
    assert len(compute(table, raw, DAY)) > 0
    assert compute(table, raw, DAY).equals(compute(table, cut, DAY))


def test_ticks_follow_the_clock_change() -> None:
    """A local day in March has 23 hours, and midnight moves by one hour in UTC."""
    assert len(hourly_ticks(DAY)) == 23
    week = Period(DAY.since - timedelta(days=1), DAY.until)
    assert [t.hour for t in daily_ticks(week)] == [5, 4]


def test_the_departure_hour_is_local() -> None:
    """The same hour in UTC is another hour in New York before and after the clock change."""
    asked = pl.DataFrame(
        {
            "scheduled_departure": [
                datetime(2013, 3, 9, 15, 30, tzinfo=UTC),
                datetime(2013, 3, 11, 15, 30, tzinfo=UTC),
            ],
            "distance": [100, 100],
        }
    )
    assert add_request_features(asked)["local_hour"].to_list() == [10.5, 11.5]


def test_late_shares_by_hand() -> None:
    """Two of three arrivals of the day before were late: the share is two thirds."""
    known = datetime(2013, 5, 1, 12, tzinfo=UTC)
    arrivals = pl.DataFrame(
        {"carrier": ["UA"] * 4, "late": [1, 1, 0, None], "known_at": [known] * 4},
        schema_overrides={"late": pl.Int8},
    )
    table = PROBLEM.table("carrier_daily")
    tick = datetime(2013, 5, 2, 4, tzinfo=UTC)
    row = table.compute({"arrivals": arrivals}, [tick]).row(0, named=True)
    assert row["carrier_late_1d"] == row["carrier_late_28d"] == pytest.approx(2 / 3)
