"""A line is remembered as it was known at midnight, and a new one has a row that says so."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from feature_repo.lines import line_history
from feature_repo.problem import PROBLEM

TICK = datetime(2013, 5, 10, 4, tzinfo=UTC)  # local midnight
DAY = timedelta(days=1)


def make_raw(*flights: dict) -> dict[str, pl.DataFrame]:
    """Return the timetable and arrivals of flights of UA 1, `ago` days before that of the tick."""
    told = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "flight": 1}
    times = {"sched_dep_time": 900, "sched_arr_time": 1100, "arr_delay": 0, "dep_delay": 0}
    schedule, arrivals = [], []
    for n, flight in enumerate(flights):
        row = {**told, **times, "flight_id": f"f{n}", **flight}
        day = TICK - row["ago"] * DAY
        dated = {**row, "year": day.year, "month": day.month, "day": day.day}
        schedule.append({**dated, "known_at": day - DAY})
        if row.get("arrived", True):
            known = day + timedelta(hours=9)
            arrivals.append({**row, "known_at": known, "late": int(row["arr_delay"] >= 15)})
    made = {}
    for name, rows in (("schedule", schedule), ("arrivals", arrivals)):
        schema = dict(next(table for table in PROBLEM.raw if table.name == name).schema)
        made[name] = pl.DataFrame([{k: v for k, v in r.items() if k in schema} for r in rows], schema=schema)
    return made


def describe(*flights: dict, tick: datetime = TICK) -> dict:
    rows = line_history(make_raw(*flights), [tick])
    return {row["flight"]: row for row in rows.to_dicts()}


def test_a_line_is_remembered_for_28_days() -> None:
    """Two of three arrivals within 28 days: one late; what came before is forgotten."""
    found = describe(
        {"ago": 29, "arr_delay": 99}, {"ago": 28, "arr_delay": 30}, {"ago": 1, "arr_delay": -10}
    )["1"]
    assert found["line_late_28d"] == 0.5
    assert found["line_delay_28d"] == 10
    assert found["line_flights_28d"] == 2


def test_a_new_line_has_a_row_on_its_first_day() -> None:
    """It flew never, and that is what its row says; its slack is known from others of its route."""
    found = describe({"ago": 1}, {"ago": 0, "flight": 2, "sched_arr_time": 1110, "arrived": False})["2"]
    assert (found["line_late_28d"], found["line_delay_28d"], found["line_flights_28d"]) == (None, None, 0)
    assert found["line_slack"] == 10


def test_slack_is_what_today_allows_over_what_the_route_took() -> None:
    """Two flights took 110 and 130 minutes; today's timetable allows 135."""
    found = describe(
        {"ago": 2, "arr_delay": -10},
        {"ago": 1, "arr_delay": 20, "dep_delay": 10},
        {"ago": 0, "sched_arr_time": 1115, "arrived": False},
    )["1"]
    assert found["line_slack"] == pytest.approx(15)


def test_a_flight_over_midnight_takes_no_negative_time() -> None:
    """From 23:00 to 01:00 are two hours."""
    night = {"sched_dep_time": 2300, "sched_arr_time": 100}
    assert describe({"ago": 1, **night}, {"ago": 0, **night, "arrived": False})["1"]["line_slack"] == 0


def test_what_is_known_after_midnight_does_not_count() -> None:
    """Of today's arrivals, and of tomorrow's timetable, nothing is in today's row."""
    known = ({"ago": 1, "arr_delay": 20},)
    later = ({"ago": 0, "arr_delay": 99}, {"ago": -1, "flight": 3})
    found = describe(*known, *later)
    assert set(found) == {"1"}
    assert found["1"]["line_delay_28d"] == 20


def test_a_day_without_arrivals_keeps_the_timetable() -> None:
    """Nothing has arrived yet: the line's row is there, and its slack is not known."""
    found = describe({"ago": 0, "arrived": False})["1"]
    assert found["line_slack"] is None
    assert found["line_flights_28d"] == 0
