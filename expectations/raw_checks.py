"""Check columns of the bundled problem: what cross-column and cross-table rules compare. They do not land.

Each is computed once a batch. A null says that there is nothing to compare with, and passes. Columns of
differences hold how far off a value is, so that a report can tell it.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache

import polars as pl

from feature_repo.contract import Lookup
from feature_repo.facts import AIRPORTS, LATE_MINUTES, TIME_ZONE, WEATHER_DELAY

KEYS = {"schedule": ("flight_id",), "departures": ("flight_id",), "arrivals": ("flight_id",)}
KNOT = 1.15078  # miles an hour; the source turns whole knots into miles an hour
RECENT = timedelta(days=28)
# Longer than the longest delay and flight. One reach for all, so that a table is read once.
LATELY = timedelta(days=4)
SHARED = ("carrier", "origin", "dest", "scheduled_departure")


def add_check_columns(table: str, frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    """Return the frame with the table's check columns."""
    add: dict[str, Callable[[pl.DataFrame, Lookup], pl.DataFrame]] = {
        "schedule": _schedule,
        "departures": _departures,
        "arrivals": _arrivals,
        "weather": _weather,
    }
    lookup = lru_cache(lookup)
    key = KEYS.get(table, ("origin", "observed_at"))
    told = pl.struct(column for column in frame.columns if not column.startswith("_"))
    copies = frame.select(copy=~told.is_first_distinct())["copy"]
    once = frame.filter(~copies)
    versions = once.group_by(key).len("_versions")
    before = _before(table, frame, lookup, RECENT if table == "schedule" else LATELY)
    landed = before.select(*key, _landed=pl.lit(value=True)).unique(key)
    frame = frame.with_columns(_first=~copies).join(versions, on=key, how="left", maintain_order="left")
    frame = frame.join(landed, on=key, how="left", maintain_order="left")
    frame = frame.with_columns(_new=pl.col("_landed").is_null()).drop("_landed")
    return add[table](frame, lookup)


def _schedule(frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    before = _before("schedule", frame, lookup, RECENT)
    usual = before.group_by("origin", "dest").agg(_usual=pl.col("distance").median())
    long_known = before["known_at"].n_unique() >= 7
    carriers, places = before["carrier"].unique(), before["dest"].unique()
    local = _local("scheduled_departure")
    frame = frame.join(usual, on=["origin", "dest"], how="left", maintain_order="left")
    return frame.with_columns(
        _local_time=local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute(),
        _days_off=_days_off("scheduled_departure"),
        _minute=_minute("sched_dep_time", "sched_arr_time"),
        _hour_minute=pl.col("hour") * 100 + pl.col("minute"),
        _distance_off=pl.col("distance") - pl.col("_usual"),
        _new_carrier=pl.when(long_known & ~pl.col("carrier").is_in(carriers.implode())).then("carrier"),
        _new_dest=pl.when(long_known & ~pl.col("dest").is_in(places.implode())).then("dest"),
        _lost_carriers=pl.lit(_lost_carriers(frame, before)),
        _airports=pl.lit(frame.filter(pl.col("origin").is_in(AIRPORTS))["origin"].n_unique()),
    ).drop("_usual")


def _departures(frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    local = _local("scheduled_departure") + pl.duration(minutes=pl.col("dep_delay"))
    frame = _join_timetable(frame, lookup)
    cancelled = lookup("arrivals", LATELY).filter(pl.col("status") == "cancelled")
    told = pl.concat([part.select("flight_id") for part in (lookup("departures", LATELY), cancelled)])
    return frame.with_columns(
        _minute=_minute("dep_time"),
        _clock_off=_wrap(_clock("dep_time") - local.dt.hour().cast(pl.Int64) * 60 - local.dt.minute()),
        **_told(frame, lookup, told, timedelta(hours=6)),
    )


def _arrivals(frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    left = lookup("departures", LATELY).unique("flight_id", keep="last")
    left = left.select("flight_id", _left=pl.lit(value=True), _left_at="dep_time")
    frame = _join_timetable(frame, lookup).join(left, on="flight_id", how="left", maintain_order="left")
    empty = {c: pl.col(c).is_null() for c in ("dep_delay", "arr_time", "arr_delay", "air_time")}
    arrived, cancelled = ~pl.any_horizontal(*empty.values()), pl.all_horizontal(*empty.values())
    diverted = ~empty["dep_delay"] & empty["arr_delay"] & empty["air_time"]
    fits = {"arrived": arrived, "cancelled": cancelled, "diverted": diverted}
    departed = _local("scheduled_departure") + pl.duration(minutes=pl.col("dep_delay"))
    planned = _local("scheduled_departure")
    clock_told = pl.col("_left_at").is_between(1, 2400) & (pl.col("_left_at") % 100 < 60)
    delay = _clock("_left_at") - planned.dt.hour().cast(pl.Int64) * 60 - planned.dt.minute()
    out = _clock("arr_time") - departed.dt.hour().cast(pl.Int64) * 60 - departed.dt.minute()
    late = pl.when(pl.col("status") == "arrived").then((pl.col("arr_delay") >= LATE_MINUTES).cast(pl.Int8))
    return frame.with_columns(
        _status_fits=pl.any_horizontal((pl.col("status") == s) & fit for s, fit in fits.items()),
        _minute=_minute("arr_time"),
        _late_fits=pl.col("late").eq_missing(late),
        _clock_off=_wrap(_clock("arr_time") - _clock("_sched_arr_time") - pl.col("arr_delay")),
        _speed=pl.col("_distance") / pl.col("air_time") * 60,
        _made_up=pl.col("arr_delay") - pl.col("dep_delay"),
        # Flying west wins an hour of clock time every 600 miles or more; taxiing takes it back.
        _after=_wrap(out) - pl.col("air_time") + pl.col("_distance") / 10,
        # By the departure's clock: its delay came from the same place as this one.
        _delay_off=pl.when(clock_told).then(_wrap(pl.col("dep_delay") - delay)),
        **_told(frame, lookup, lookup("arrivals", LATELY).select("flight_id"), timedelta(hours=10)),
        _departed=pl.when(pl.col("_planned").is_not_null()).then(
            (pl.col("status") == "cancelled") == pl.col("_left").is_null()
        ),
    ).drop("_left", "_left_at")


def _weather(frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    local = _local("observed_at")
    humid = 100 * _vapour("dewp") / _vapour("temp")
    knots, gusts = pl.col("wind_speed") / KNOT, pl.col("wind_gust") / KNOT
    middle = {c: pl.col(c) - pl.col(c).median().over("observed_at") for c in ("temp", "dewp", "pressure")}
    frame = frame.with_columns(_humid_off=humid - pl.col("humid"))
    full = frame.group_by("origin").agg(
        pl.when(pl.col(c).count() >= 12).then(pl.col(c).n_unique())
        for c in ("temp", "humid", "wind_speed", "pressure")
    )
    return frame.with_columns(
        _days_off=_days_off("observed_at"),
        _hours_off=(local.dt.hour().cast(pl.Int64) - pl.col("hour").fill_null(99)),
        _dew_below=pl.col("temp") - pl.col("dewp"),
        _gust_above=pl.col("wind_gust") - pl.col("wind_speed"),
        _knots_off=pl.max_horizontal((knots - knots.round()).abs(), (gusts - gusts.round()).abs()),
        _inches_off=(pl.col("precip") * 100 - (pl.col("precip") * 100).round()).abs(),
        **{f"_{c}_apart": off for c, off in middle.items()},
        _humid_error=pl.col("_humid_off").abs().median(),
        _fewest_values=pl.lit(_least(full.drop("origin"))),
        _flights_covered=pl.lit(_flights_covered(lookup)),
        _repeated=pl.lit(_repeated(frame, lookup)),
        **_jumps(frame, lookup),
    )


def _before(table: str, frame: pl.DataFrame, lookup: Lookup, back: timedelta) -> pl.DataFrame:
    """Return the table's rows that landed before this batch."""
    known, begins = lookup(table, back), frame["known_at"].min()
    return known if begins is None else known.filter(pl.col("known_at") < begins)


def _join_timetable(frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    """Add whether a flight is in the timetable and agrees with it; null before the timetable begins."""
    known = lookup("schedule", LATELY).unique("flight_id", keep="last")
    begins = known["scheduled_departure"].min()
    told = known.select(
        "flight_id",
        _planned=pl.lit(value=True),
        _distance="distance",
        _sched_arr_time="sched_arr_time",
        _told=pl.struct(SHARED),
    )
    joined = frame.join(told, on="flight_id", how="left", maintain_order="left")
    covered = pl.col("scheduled_departure") >= begins
    return joined.with_columns(
        _planned=pl.when(covered).then(pl.col("_planned").is_not_null()),
        _agrees=pl.when(pl.col("_planned")).then(pl.struct(SHARED) == pl.col("_told")),
    ).drop("_told")


def _told(frame: pl.DataFrame, lookup: Lookup, told: pl.DataFrame, after: timedelta) -> dict[str, pl.Expr]:
    """Return what share of the flights due `after` their time is told of, where it is least.

    By airport, and by carrier with ten flights or more; and how many flights of the day before are still
    untold of.
    """
    now = frame["known_at"].max()
    if now is None:
        return {name: pl.lit(1.0) for name in ("_airport_told", "_carrier_told", "_untold")}
    due = lookup("schedule", LATELY).with_columns(gone=pl.col("flight_id").is_in(told["flight_id"].implode()))
    age = pl.lit(now) - pl.col("scheduled_departure")
    today = due.filter(age.is_between(after, timedelta(hours=22)))
    airports = today.group_by("origin").agg(pl.col("gone").mean())
    carriers = today.group_by("carrier").agg(pl.col("gone").mean(), pl.len()).filter(pl.col("len") >= 10)
    overdue = due.filter(age.is_between(timedelta(hours=24), timedelta(hours=40)) & ~pl.col("gone"))
    return {
        "_airport_told": pl.lit(_least(airports.select("gone"))),
        "_carrier_told": pl.lit(_least(carriers.select("gone"))),
        "_untold": pl.lit(float(len(overdue))),
    }


def _lost_carriers(frame: pl.DataFrame, before: pl.DataFrame) -> int:
    """Return how many carriers flew 20 times or more on each of the last seven days and now not at all."""
    days = sorted(before["known_at"].unique())[-7:]
    usual = before.filter(pl.col("known_at").is_in(days)).group_by("carrier", "known_at").len()
    daily = usual.filter(pl.col("len") >= 20).group_by("carrier").len().filter(pl.col("len") == 7)
    return daily.filter(~pl.col("carrier").is_in(frame["carrier"].unique().implode())).height


def _flights_covered(lookup: Lookup) -> float:
    """Return the share of the period's departures that have weather for their scheduled hour."""
    # Only what agrees with the timetable: a damaged departure says nothing of the weather.
    same = ["flight_id", "origin", "scheduled_departure"]
    left = lookup("departures", timedelta(0)).join(lookup("schedule", LATELY), on=same, how="semi")
    if not len(left):
        return 1.0
    hour = pl.col("scheduled_departure").dt.truncate("1h")
    due = left.select("origin", "known_at", observed_at=hour)
    due = due.filter(pl.col("observed_at") + WEATHER_DELAY <= left["known_at"].max())
    seen = lookup("weather", LATELY).select("origin", "observed_at").unique()
    return len(due.join(seen, on=["origin", "observed_at"], how="semi")) / len(due) if len(due) else 1.0


def _repeated(frame: pl.DataFrame, lookup: Lookup) -> float:
    """Return the share of the readings that are those of a day ago, to the last digit."""
    told = ["origin", "observed_at", "temp", "dewp", "humid", "wind_speed", "visib"]
    day_ago = lookup("weather", LATELY).select(told)
    day_ago = day_ago.with_columns(pl.col("observed_at") + timedelta(days=1))
    return len(frame.join(day_ago, on=told, how="semi", nulls_equal=True)) / max(len(frame), 1)


def _jumps(frame: pl.DataFrame, lookup: Lookup) -> dict[str, pl.Expr]:
    """Return by how much the middle airport's readings changed at most within an hour."""
    told, held = ["observed_at", "temp", "pressure"], pl.col("temp", "pressure")
    every = pl.concat([_before("weather", frame, lookup, LATELY).select(told), frame.select(told)])
    hours = every.group_by("observed_at").agg(held.median()).sort("observed_at").drop_nulls()
    steps = hours.with_columns(held.diff().abs(), _gap=pl.col("observed_at").diff())
    steps = steps.filter(
        (pl.col("_gap") == timedelta(hours=1)) & pl.col("observed_at").is_in(frame["observed_at"].implode())
    )
    return {f"_{name}_jump": pl.lit(steps[name].max() or 0.0) for name in ("temp", "pressure")}


def _least(values: pl.DataFrame) -> float:
    # Nothing to judge counts as well.
    least = values.select(pl.min_horizontal(pl.all().min())).item() if len(values) else None
    return 1e9 if least is None else float(least)


def _local(column: str) -> pl.Expr:
    return pl.col(column).dt.convert_time_zone(TIME_ZONE)


def _days_off(instant: str) -> pl.Expr:
    """Return days from an instant's local date to the date told; a day that does not exist is far off."""
    parts = (pl.format("{}", pl.col(c)).str.zfill(2) for c in ("year", "month", "day"))
    date = pl.concat_str(*parts, separator="-").str.to_date("%Y-%m-%d", strict=False)
    off = date.cast(pl.Int64) - _local(instant).dt.date().cast(pl.Int64)
    return pl.when(pl.col(instant).is_not_null()).then(off.fill_null(9999))


def _clock(column: str) -> pl.Expr:
    """Return minutes since midnight of a time written as 1435; 2400 is midnight."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def _minute(*columns: str) -> pl.Expr:
    return pl.max_horizontal(pl.col(c) % 100 for c in columns)


def _wrap(minutes: pl.Expr) -> pl.Expr:
    """Return minutes between two clock times, from -12 to 12 hours."""
    return (minutes + 720) % 1440 - 720


def _vapour(column: str) -> pl.Expr:
    """Return vapour pressure at a temperature in Fahrenheit, relative (Magnus formula)."""
    celsius = (pl.col(column) - 32) / 1.8
    return (17.625 * celsius / (243.04 + celsius)).exp()
