"""The rules of the bundled problem hold on real days and name what breaks them."""

from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl
import pytest

from expectations import raw
from feature_repo.contract import Lookup, Period
from feature_repo.problem import PROBLEM
from feature_repo.source import open_source

TABLES = ("schedule", "departures", "arrivals", "weather")
FETCH = open_source()


def local_day(month: int, day: int, offset: int = 5) -> Period:
    """Return a day of 2013 in New York, whose midnight is at `offset` in UTC."""
    since = datetime(2013, month, day, offset, tzinfo=UTC)
    return Period(since, since + timedelta(days=1))


def lookup_in(period: Period) -> Lookup:
    """Return a lookup over the clean year."""
    return lambda table, back: FETCH(table, Period(period.since - back, period.until)).frame


@cache
def clean(table: str, period: Period) -> pl.DataFrame:
    """Return a clean batch with its check columns."""
    return raw.add_check_columns(table, FETCH(table, period).frame, lookup_in(period))


@pytest.mark.parametrize("table", TABLES)
def test_every_rule_finds_its_column(table: str) -> None:
    """A rule names a column of the table, a check column or a measure; a day and an hour alike."""
    day = local_day(3, 12, 4)
    for period in (day, Period(day.since, day.since + timedelta(hours=1))):
        columns = set(clean(table, period).columns)
        for rule in raw.suite(table, period):
            named = {rule.arguments[k] for k in ("column", "column_A", "column_B") if k in rule.arguments}
            assert named <= columns | {"rows", "known_at.newest", "scheduled_departure.newest"}, rule.name


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_hour_has_its_check_columns(table: str) -> None:
    """An hour of the night without rows can be judged like any other."""
    period = local_day(3, 12, 4)
    frame = FETCH(table, period).frame.clear()
    told = raw.add_check_columns(table, frame, lookup_in(period))
    assert len(told) == 0
    assert set(told.columns) == set(clean(table, period).columns)


@pytest.mark.parametrize("table", TABLES)
def test_rows_keep_their_places(table: str) -> None:
    """Check columns are added at the right; the batch's rows and their order stay as they are."""
    period = local_day(3, 12, 4)
    frame = FETCH(table, period).frame
    assert clean(table, period).select(frame.columns).equals(frame)


@pytest.mark.parametrize("month_day", [(3, 9), (11, 2)])
def test_local_time_agrees_with_utc_through_both_clock_changes(month_day: tuple[int, int]) -> None:
    """Three days around each clock change have no flight and no hour of weather off their clock."""
    since = datetime(2013, *month_day, 5, tzinfo=UTC)
    period = Period(since, since + timedelta(days=3))
    flights, weather = clean("schedule", period), clean("weather", period)
    assert flights.filter(pl.col("sched_dep_time") != pl.col("_local_time")).is_empty()
    assert flights.filter(pl.col("_days_off") != 0).is_empty()
    assert weather.filter((pl.col("_hours_off") != 0) | (pl.col("_days_off") != 0)).is_empty()
    assert clean("departures", period).filter(pl.col("_clock_off") != 0).is_empty()
    assert clean("arrivals", period).filter(pl.col("_clock_off") != 0).is_empty()


def test_flights_before_the_timetable_begins_are_not_held_against_it() -> None:
    """A home that begins in mid-year knows no timetable of the day before; its late flights may land."""
    period = local_day(2, 11)
    late = FETCH("arrivals", period).frame

    def begins_today(table: str, back: timedelta) -> pl.DataFrame:
        frame = FETCH(table, Period(period.since - timedelta(days=1), period.until)).frame
        return frame if table == "schedule" else frame.filter(pl.col("known_at") >= period.since)

    told = raw.add_check_columns("arrivals", late, begins_today)
    before = told.filter(pl.col("scheduled_departure") < period.since)
    assert len(before) > 10
    assert before["_planned"].null_count() == len(before)
    assert told.filter(~pl.col("_planned")).is_empty()


def test_an_exact_copy_is_kept_back_and_the_first_is_not() -> None:
    """Of two equal rows one lands; of two that differ under one key neither can be told to be true."""
    period = local_day(3, 12, 4)
    frame = FETCH("departures", period).frame
    other = frame[5:6].with_columns(tailnum=pl.lit("N1"))
    told = raw.add_check_columns("departures", pl.concat([frame, frame[:3], other]), lookup_in(period))
    assert told["_first"].to_list().count(False) == 3
    assert told.filter(pl.col("_versions") > 1)["flight_id"].unique().to_list() == [frame["flight_id"][5]]


def test_a_key_that_landed_before_is_told() -> None:
    """A flight that an earlier batch holds does not land a second time on another day."""
    period, before = local_day(3, 12, 4), local_day(3, 11, 4)
    again = FETCH("arrivals", before).frame[100:104].with_columns(known_at=pl.lit(period.since))
    again = again.with_columns(pl.col("known_at").cast(pl.Datetime("us", "UTC")))
    frame = pl.concat([FETCH("arrivals", period).frame, again])
    told = raw.add_check_columns("arrivals", frame, lookup_in(period))
    assert set(told.filter(~pl.col("_new"))["flight_id"]) == set(again["flight_id"])


def test_new_codes_are_told_once_there_is_a_past() -> None:
    """In the first week every carrier is new, and none is called so."""
    first = Period(PROBLEM.start - timedelta(days=1), PROBLEM.start)
    assert clean("schedule", first)["_new_carrier"].null_count() == len(clean("schedule", first))
    told = clean("schedule", local_day(1, 29))
    assert told["_new_carrier"].drop_nulls().unique().to_list() == ["OO"]
