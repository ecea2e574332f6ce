"""The source gives each row in the period in which it became known, from any place that holds the columns."""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import SourceError
from feature_repo.problem import PROBLEM
from feature_repo.source import COLUMNS, open_source

YEAR = Period(PROBLEM.start - timedelta(days=2), PROBLEM.end + timedelta(days=2))
CLEAN = open_source()
JANUARY = Period(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 8, tzinfo=UTC))


@cache
def bundled(table: str) -> pl.DataFrame:
    """Return the first rows of the bundled file of a table."""
    from feature_repo.files import read_file
    from feature_repo.source import _bundled

    return read_file(_bundled(table), COLUMNS[table]).frame.filter(
        (pl.col("month") == 1) & (pl.col("day") < 8)
    )


def test_every_flight_of_the_year_comes_once_with_an_outcome() -> None:
    """All 336,776 flights are there; 9,430 never arrived and say so, with no target."""
    arrivals = CLEAN("arrivals", YEAR).frame
    assert len(arrivals) == arrivals["flight_id"].n_unique() == 336_776
    never = arrivals.filter(pl.col("late").is_null())
    assert dict(never.group_by("status").len().iter_rows()) == {"cancelled": 8_255, "diverted": 1_175}


def test_an_outcome_is_not_known_before_the_flight_lands() -> None:
    """No arrival is known before its departure plus its time in the air."""
    arrived = CLEAN("arrivals", YEAR).frame.filter(pl.col("status") == "arrived")
    flown = pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time"))
    assert arrived.filter(pl.col("known_at") < pl.col("scheduled_departure") + flown).is_empty()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_folder_of_files_reads_like_the_bundled_year(tmp_path: Path, suffix: str) -> None:
    """The same rows in a folder of CSV or Parquet files give the same batches."""
    for table in COLUMNS:
        frame, path = bundled(table), tmp_path / f"{table}-2013-01.{suffix}"
        frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    mine, theirs = open_source(str(tmp_path)), CLEAN
    for table in ("schedule", "departures", "weather"):
        period = Period(JANUARY.since, JANUARY.until - timedelta(days=2))
        assert mine(table, period).frame.equals(theirs(table, period).frame)


def test_a_template_names_one_file_a_month(tmp_path: Path) -> None:
    """A place with {table}, {year} and {month} is read month by month; a missing month is no error."""
    for table in COLUMNS:
        bundled(table).write_parquet(tmp_path / f"{table}-2013-01.parquet")
    fetch = open_source(str(tmp_path / "{table}-{year}-{month:02}.parquet"))
    assert len(fetch("schedule", JANUARY).frame) > 5_000


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.drop("carrier"), "no column carrier"),
        (lambda f: f.with_columns(pl.lit("soon").alias("dep_time")), "column dep_time: got 'soon'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: object, said: str) -> None:
    """The error names the file, the column and the value; nothing passes for missing."""
    damage(bundled("flights")).write_csv(tmp_path / "flights.csv")  # type: ignore[operator]
    with pytest.raises(SourceError, match=said):
        open_source(str(tmp_path))("schedule", JANUARY)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    """A folder without files says what it looked for and which setting to correct."""
    with pytest.raises(SourceError, match="PERENNIAL_SOURCE"):
        open_source(str(tmp_path))("schedule", JANUARY)


def write_january(folder: Path, flights: pl.DataFrame) -> None:
    """Write flights, and clean weather, as CSV files."""
    flights.write_csv(folder / "flights.csv", null_value="NA")
    bundled("weather").write_csv(folder / "weather.csv", null_value="NA")


def spoil(flights: pl.DataFrame, row: int, **values: object) -> pl.DataFrame:
    """Return flights with values set in one row."""
    here = pl.int_range(pl.len()) == row
    new = {
        name: pl.when(here).then(pl.lit(value, dtype=flights.schema[name])).otherwise(name)
        for name, value in values.items()
    }
    return flights.with_columns(**new)


@pytest.mark.parametrize(
    "values",
    [
        {"year": None},
        {"day": 39},
        {"year": 1970},
        {"time_hour": None},
        {"time_hour": "2 January, 10 h"},
        {"time_hour": "1970-01-01T00:00:00Z"},
        {"minute": None},
        {"air_time": None},
        {"air_time": 9999},
        {"dep_delay": None},
        {"dep_delay": -9999},
        {"dep_delay": 9999},
        {"carrier": None},
    ],
)
def test_a_row_that_cannot_be_dated_still_comes_once(tmp_path: Path, values: dict[str, object]) -> None:
    """Each flight is in one day's timetable, departures and arrivals, on its own day, whatever it lacks."""
    flights = bundled("flights")
    row = 1000
    assert flights["dep_delay"][row] is not None
    write_january(tmp_path, spoil(flights, row, **values))
    mine, theirs = open_source(str(tmp_path)), CLEAN
    for table, back in (("schedule", 1), ("departures", 0), ("arrivals", 0)):
        day = Period(datetime(2013, 1, 2 - back, 5, tzinfo=UTC), datetime(2013, 1, 3 - back, 5, tzinfo=UTC))
        assert len(mine(table, day).frame) == len(theirs(table, day).frame)


def test_a_file_that_nothing_dates_is_refused(tmp_path: Path) -> None:
    """Rows without any year and hour could come on any day, so they come on none."""
    nothing = [pl.lit(None, pl.Int64).alias("year"), pl.lit(None, pl.String).alias("time_hour")]
    write_january(tmp_path, bundled("flights").with_columns(nothing))
    with pytest.raises(SourceError, match="rows that nothing dates"):
        open_source(str(tmp_path))("schedule", JANUARY)


def test_an_unknown_column_is_passed_on(tmp_path: Path) -> None:
    """The schema check sees a column that joined; a batch from another file does not have it."""
    flights = bundled("flights")
    flights.filter(pl.col("day") < 4).write_csv(tmp_path / "flights-1.csv", null_value="NA")
    later = flights.filter(pl.col("day") >= 4).with_columns(gate=pl.lit("A1"))
    later.write_csv(tmp_path / "flights-2.csv", null_value="NA")
    fetch = open_source(str(tmp_path))
    for table in ("schedule", "departures", "arrivals"):
        early = fetch(table, Period(JANUARY.since + timedelta(days=1), JANUARY.since + timedelta(days=2)))
        late = fetch(table, Period(JANUARY.since + timedelta(days=5), JANUARY.since + timedelta(days=6)))
        assert "gate" not in early.frame.columns
        assert set(late.frame["gate"]) == {"A1"}


def test_a_delivery_names_the_files_that_its_rows_came_from(tmp_path: Path) -> None:
    """Of many files only those that hold rows of the period are named, each with its hash."""
    flights = bundled("flights")
    for day in range(1, 8):
        flights.filter(pl.col("day") == day).write_csv(tmp_path / f"flights-{day}.csv", null_value="NA")
    noon = Period(datetime(2013, 1, 3, 15, tzinfo=UTC), datetime(2013, 1, 3, 17, tzinfo=UTC))
    files = open_source(str(tmp_path))("departures", noon).files
    assert [file.name for file in files] == [str(tmp_path / "flights-3.csv")]
    assert files[0].sha256 == hashlib.sha256((tmp_path / "flights-3.csv").read_bytes()).hexdigest()
