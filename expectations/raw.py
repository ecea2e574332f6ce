"""What each raw batch must satisfy, for the bundled problem. Particular to the problem.

Limits come from the year 2013 and from what can be: the shortest real flight there is 17 miles (a
positioning hop), five flights left over 1,000 minutes late. Wind above 200 mph is a broken sensor.
"""

from datetime import timedelta

import polars as pl

from expectations import rules
from expectations.rules import Rule
from feature_repo.contract import Lookup, Period
from feature_repo.facts import AIRPORTS, TIME_ZONE

CARRIER = rules.like("carrier", "^[A-Z0-9]{2}$", "a two-character airline code")
DEST = rules.like("dest", "^[A-Z]{3}$", "a three-letter airport code")
ORIGIN = rules.one_of("origin", AIRPORTS)


def suite(table: str, period: Period) -> list[Rule]:
    """Return the rules for one batch; volume and freshness scale with the period's length."""
    days = (period.until - period.since) / timedelta(days=1)
    return {
        "schedule": _schedule,
        "departures": _departures,
        "arrivals": _arrivals,
        "weather": _weather,
    }[table](period, days)


def add_check_columns(table: str, frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    """Add what cross-column and cross-table rules compare; the columns do not land."""
    if table != "schedule":
        return frame
    local = pl.col("scheduled_departure").dt.convert_time_zone(TIME_ZONE)
    return frame.with_columns(
        _local_time=local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute(),
        _local_day=local.dt.day().cast(pl.Int64),
    )


def _schedule(period: Period, days: float) -> list[Rule]:
    return [
        *rules.present("flight_id", "carrier", "flight", "origin", "dest", "distance", "scheduled_departure"),
        *(rules.unique("flight_id"), ORIGIN, CARRIER, DEST),
        rules.between("distance", 10, 5500),
        rules.equal("sched_dep_time", "_local_time", "timetable time is the departure instant in New York"),
        rules.equal("day", "_local_day", "timetable day is the departure instant's day in New York"),
        rules.row_count(*_volume(days, 500, 1200)),
    ]


def _departures(period: Period, days: float) -> list[Rule]:
    return [
        *rules.present("flight_id", "carrier", "origin", "dest", "dep_time", "dep_delay"),
        *(rules.unique("flight_id"), ORIGIN, CARRIER, DEST),
        rules.between("dep_delay", -120, 2000),
        rules.row_count(*_volume(days, 150, 1300)),
        *_fresh(period, days, timedelta(hours=8)),
    ]


def _arrivals(period: Period, days: float) -> list[Rule]:
    return [
        *rules.present("flight_id", "carrier", "origin", "dest", "status"),
        *(rules.unique("flight_id"), ORIGIN, CARRIER, DEST),
        rules.one_of("status", ("arrived", "cancelled", "diverted")),
        rules.between("arr_delay", -180, 2000),
        rules.between("air_time", 10, 900),
        rules.row_count(*_volume(days, 400, 1400)),
        *_fresh(period, days, timedelta(hours=8)),
    ]


def _weather(period: Period, days: float) -> list[Rule]:
    return [
        *rules.present("origin", "observed_at"),
        rules.unique_together("origin", "observed_at"),
        ORIGIN,
        rules.between("temp", -40, 130),
        rules.between("dewp", -60, 100),
        rules.between("humid", 0, 100),
        rules.between("wind_dir", 0, 360),
        rules.between("wind_speed", 0, 200),
        rules.between("wind_gust", 0, 200),
        rules.between("precip", 0, 5),
        rules.between("pressure", 870, 1090),
        rules.between("visib", 0, 10),
        rules.row_count(*_volume(days, 36, 75)),
        *_fresh(period, days, timedelta(hours=8)),
    ]


def _volume(days: float, low: int, high: int) -> tuple[int, int]:
    # A part of a day may be empty (night). The clock changes make days of 23 and 25 hours.
    whole = int(days + 1 / 12)
    return low * whole, round(high * max(days, 1) * 1.05)


def _fresh(period: Period, days: float, age: timedelta) -> list[Rule]:
    if days < 0.9:
        return []
    return [rules.newest("known_at", period.until - age, period.until)]
