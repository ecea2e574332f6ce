"""The source gives each row in the period in which it became known, from any place that holds the columns."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import SourceError
from feature_repo.problem import PROBLEM
from feature_repo.source import COLUMNS, open_source

YEAR = Period(PROBLEM.start - timedelta(days=2), PROBLEM.end + timedelta(days=2))
JANUARY = Period(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 8, tzinfo=UTC))


def bundled(table: str) -> pl.DataFrame:
    """Return the first rows of the bundled file of a table."""
    from feature_repo.files import read_file
    from feature_repo.source import _bundled

    return read_file(_bundled(table), COLUMNS[table]).frame.filter(
        (pl.col("month") == 1) & (pl.col("day") < 8)
    )


def test_every_flight_of_the_year_comes_once_with_an_outcome() -> None:
    """All 336,776 flights are there; 9,430 never arrived and say so, with no target."""
    arrivals = open_source()("arrivals", YEAR).frame
    assert len(arrivals) == arrivals["flight_id"].n_unique() == 336_776
    never = arrivals.filter(pl.col("late").is_null())
    assert dict(never.group_by("status").len().iter_rows()) == {"cancelled": 8_255, "diverted": 1_175}


def test_an_outcome_is_not_known_before_the_flight_lands() -> None:
    """No arrival is known before its departure plus its time in the air."""
    fetch = open_source()
    arrived = fetch("arrivals", YEAR).frame.filter(pl.col("status") == "arrived")
    flown = pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time"))
    assert arrived.filter(pl.col("known_at") < pl.col("scheduled_departure") + flown).is_empty()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_folder_of_files_reads_like_the_bundled_year(tmp_path: Path, suffix: str) -> None:
    """The same rows in a folder of CSV or Parquet files give the same batches."""
    for table in COLUMNS:
        frame, path = bundled(table), tmp_path / f"{table}-2013-01.{suffix}"
        frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    mine, theirs = open_source(str(tmp_path)), open_source()
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
