"""Damage to files: formats, headers, encodings, cut-off and doubled files."""

import gzip
import zipfile
from datetime import timedelta
from pathlib import Path

import polars as pl

from tests.damage.harness import DAMAGES, DAY, bundled, refused, stopped, write

UNKNOWN = "no unknown column"
EVERY_FLIGHT_TABLE = {t: stopped(UNKNOWN) for t in ("schedule", "departures", "arrivals")}
NO_FLIGHTS = {t: stopped("rows") for t in ("schedule", "departures", "arrivals")}


def _edit(path: Path, old: str, new: str, count: int = -1) -> None:
    path.write_text(path.read_text().replace(old, new, count))


def _as_text(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False)


@DAMAGES.files(source=refused("no column carrier"))
def renamed_column(flights: Path, weather: Path) -> None:
    """A column has another name."""
    _edit(flights, "carrier", "airline", 1)


@DAMAGES.files(source=refused("no column air_time"))
def missing_column(flights: Path, weather: Path) -> None:
    """A column is gone."""
    _as_text(flights).drop("air_time").write_csv(flights)


@DAMAGES.files(source=refused("no column year"))
def header_in_capitals(flights: Path, weather: Path) -> None:
    """The header is in capitals: names are compared as they are."""
    header, rest = flights.read_text().split("\n", 1)
    flights.write_text(f"{header.upper()}\n{rest}")


@DAMAGES.files(source=refused("no column year"))
def missing_header(flights: Path, weather: Path) -> None:
    """The first line is a flight already."""
    flights.write_text(flights.read_text().split("\n", 1)[1])


@DAMAGES.files(**EVERY_FLIGHT_TABLE)
def added_column(flights: Path, weather: Path) -> None:
    """A column joined: nobody has said what it means, so the batches stop until someone does."""
    _as_text(flights).with_columns(gate=pl.lit("A1")).write_csv(flights)


@DAMAGES.files(**EVERY_FLIGHT_TABLE)
def column_twice(flights: Path, weather: Path) -> None:
    """A column is there twice under one name."""
    lines = flights.read_text().splitlines()
    lines = [f"{line},{'carrier' if n == 0 else 'UA'}" for n, line in enumerate(lines)]
    flights.write_text("\n".join(lines) + "\n")


@DAMAGES.files()
def reordered_columns(flights: Path, weather: Path) -> None:
    """Columns come in another order: they go by name."""
    frame = _as_text(flights)
    frame.select(sorted(frame.columns)).write_csv(flights)


@DAMAGES.files()
def shuffled_rows(flights: Path, weather: Path) -> None:
    """Rows come in another order: none is implied."""
    for path in (flights, weather):
        _as_text(path).sample(fraction=1, shuffle=True, seed=1).write_csv(path)


@DAMAGES.files()
def integers_written_as_1_0(flights: Path, weather: Path) -> None:
    """Whole numbers come as 517.0, as tools write them beside missing values: the same numbers."""
    frame = _as_text(flights)
    numbers = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
    whole = [
        pl.when(pl.col(c) != "NA").then(pl.col(c) + ".0").otherwise(pl.lit("NA")).alias(c) for c in numbers
    ]
    frame.with_columns(whole).write_csv(flights)


@DAMAGES.files(source=refused("column dep_delay: got '7.5'"))
def fraction_in_an_integer_column(flights: Path, weather: Path) -> None:
    """A delay of seven and a half minutes in a column of whole ones."""
    frame = _as_text(flights)
    half = pl.when(pl.int_range(pl.len()) == 20).then(pl.lit("7.5")).otherwise("dep_delay")
    frame.with_columns(dep_delay=half).write_csv(flights)


@DAMAGES.files(source=refused("column distance: got 'far'"))
def text_in_a_number_column(flights: Path, weather: Path) -> None:
    """A word where a number belongs."""
    frame = _as_text(flights)
    far = pl.when(pl.int_range(pl.len()) == 20).then(pl.lit("far")).otherwise("distance")
    frame.with_columns(distance=far).write_csv(flights)


@DAMAGES.files(source=refused("got 'UA1545'"))
def flight_number_with_its_carrier(flights: Path, weather: Path) -> None:
    """A column changed its type: flight numbers became text."""
    frame = _as_text(flights)
    frame.with_columns(flight=pl.lit("UA1545")).write_csv(flights)


@DAMAGES.files(source=refused("got 'null'"))
def missing_written_as_null(flights: Path, weather: Path) -> None:
    """Missing values are written as "null", which is not a word of this source."""
    _edit(flights, ",NA", ",null")


@DAMAGES.files(source=refused("column wind_gust: got 'N/A'"))
def missing_written_as_n_a(flights: Path, weather: Path) -> None:
    """Missing values are written as "N/A"."""
    _edit(weather, ",NA", ",N/A")


@DAMAGES.files()
def missing_written_as_nan(flights: Path, weather: Path) -> None:
    """Missing values are written as "NaN": no number in any dialect, so they are missing."""
    for path in (flights, weather):
        _edit(path, ",NA", ",NaN")


@DAMAGES.files(source=refused("column temp: got '39,92'"))
def decimal_comma(flights: Path, weather: Path) -> None:
    """Temperatures are written with a decimal comma."""
    _as_text(weather).with_columns(temp=pl.lit("39,92")).write_csv(weather)


@DAMAGES.files(source=refused("with commas between them"))
def semicolons(flights: Path, weather: Path) -> None:
    """Fields are separated by semicolons."""
    _edit(flights, ",", ";")


@DAMAGES.files(source=refused("unreadable"))
def latin_1_bytes(flights: Path, weather: Path) -> None:
    """Half of the file is in UTF-8, and one value is in Latin-1."""
    content = flights.read_bytes()
    flights.write_bytes(content.replace(b",EWR,", b",EWR\xe9,", 3))


@DAMAGES.files(source=refused("no column year"))
def utf_16(flights: Path, weather: Path) -> None:
    """The whole file is in UTF-16."""
    flights.write_bytes(flights.read_text().encode("utf-16"))


@DAMAGES.files()
def byte_order_mark(flights: Path, weather: Path) -> None:
    """A UTF-8 byte order mark stands before the header."""
    flights.write_bytes(b"\xef\xbb\xbf" + flights.read_bytes())


@DAMAGES.files()
def windows_line_ends(flights: Path, weather: Path) -> None:
    """Lines end as on Windows."""
    for path in (flights, weather):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


@DAMAGES.files()
def blank_lines_at_the_end(flights: Path, weather: Path) -> None:
    """Empty lines follow the last row."""
    for path in (flights, weather):
        path.write_text(path.read_text() + "\n\n\n")


@DAMAGES.files()
def quoted_fields(flights: Path, weather: Path) -> None:
    """Every field is in quotes."""
    _as_text(flights).write_csv(flights, quote_style="always")


@DAMAGES.files()
def numbers_padded_with_blanks(flights: Path, weather: Path) -> None:
    """Numbers stand in columns of one width: the same numbers."""
    _as_text(weather).with_columns(pl.col("temp", "pressure").str.pad_start(9)).write_csv(weather)


@DAMAGES.files()
def gzipped(flights: Path, weather: Path) -> None:
    """The files come gzipped."""
    for path in (flights, weather):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@DAMAGES.files()
def zipped(flights: Path, weather: Path) -> None:
    """The files come zipped, one in each archive."""
    for path in (flights, weather):
        with zipfile.ZipFile(path.with_name(f"{path.name}.zip"), "w") as archive:
            archive.write(path, path.name)
        path.unlink()


@DAMAGES.files()
def parquet_with_nans(flights: Path, weather: Path) -> None:
    """The files come as Parquet out of pandas: floats everywhere, NaN where a value is missing."""
    for table, path in (("flights", flights), ("weather", weather)):
        text = pl.read_csv(path, null_values="NA")
        text.with_columns(
            pl.col(pl.Int64, pl.Float64).cast(pl.Float64).fill_null(float("nan"))
        ).write_parquet(path.with_name(f"{table}.parquet"))
        path.unlink()


@DAMAGES.files(source=refused("2 files in the archive"))
def two_files_in_one_archive(flights: Path, weather: Path) -> None:
    """An archive holds two files: to read the first alone would lose the second."""
    with zipfile.ZipFile(flights.with_suffix(".zip"), "w") as archive:
        archive.write(flights, "a.csv")
        archive.write(flights, "b.csv")
    flights.unlink()


@DAMAGES.files(source=refused("cut off"))
def cut_off_within_a_line(flights: Path, weather: Path) -> None:
    """The transfer broke off in the middle of a line."""
    content = flights.read_bytes()
    half = content.index(b"\n", len(content) * 3 // 4)
    flights.write_bytes(content[: half + 30])


@DAMAGES.files(schedule=stopped("rows"))
def cut_off_between_lines(flights: Path, weather: Path) -> None:
    """The transfer broke off at the end of a line: the day is whole, of the next a part is there."""
    lines = flights.read_text().splitlines(keepends=True)
    flights.write_text("".join(lines[: len(lines) * 5 // 8]))


@DAMAGES.files(source=refused("unreadable"))
def cut_off_gzip(flights: Path, weather: Path) -> None:
    """The end of a gzipped file is missing."""
    content = gzip.compress(flights.read_bytes())
    flights.with_name(f"{flights.name}.gz").write_bytes(content[: len(content) // 2])
    flights.unlink()


@DAMAGES.files(source=refused("unreadable"))
def cut_off_zip(flights: Path, weather: Path) -> None:
    """The end of a zipped file is missing."""
    path = flights.with_name(f"{flights.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(flights, flights.name)
    path.write_bytes(path.read_bytes()[:20_000])
    flights.unlink()


@DAMAGES.files(source=refused("unreadable"))
def empty_file(flights: Path, weather: Path) -> None:
    """The file has no byte in it."""
    flights.write_bytes(b"")


@DAMAGES.files(**NO_FLIGHTS)
def header_alone(flights: Path, weather: Path) -> None:
    """The file has a header and no row: a day without flights."""
    flights.write_text(flights.read_text().split("\n", 1)[0] + "\n")


@DAMAGES.files(weather=stopped("rows"))
def missing_file(flights: Path, weather: Path) -> None:
    """The day's weather file did not come."""
    weather.unlink()


@DAMAGES.files(source=refused("column year: got 'year'"))
def header_in_the_middle(flights: Path, weather: Path) -> None:
    """Two files were put together, header and all."""
    text = flights.read_text()
    flights.write_text(text + text)


@DAMAGES.files(source=refused("no column year"))
def error_page(flights: Path, weather: Path) -> None:
    """The file is the error page of a web server."""
    flights.write_text("<html><body>\n<h1>502 Bad Gateway</h1>\n</body></html>\n")


@DAMAGES.files(source=refused("got '"))
def shifted_fields(flights: Path, weather: Path) -> None:
    """In one line a field is missing, and the others moved to the left."""
    lines = flights.read_text().splitlines(keepends=True)
    lines[20] = ",".join([*lines[20].split(",")[1:-1], "7", lines[20].split(",")[-1]])
    flights.write_text("".join(lines))


@DAMAGES.files(source=refused("unreadable"))
def field_too_many(flights: Path, weather: Path) -> None:
    """One line has a field more than the header."""
    lines = flights.read_text().splitlines()
    lines[20] += ",7"
    flights.write_text("\n".join(lines))


@DAMAGES.files(**{t: stopped("quarantined") for t in ("schedule", "departures", "arrivals")})
def duplicated_file(flights: Path, weather: Path) -> None:
    """The file lies there twice: the second copy of each row is kept back, which is too many."""
    flights.with_name("flights-copy.csv").write_bytes(flights.read_bytes())


@DAMAGES.files(**NO_FLIGHTS)
def stale_file(flights: Path, weather: Path) -> None:
    """Last week's file was sent again under today's name: of today there is nothing."""
    day = pl.date("year", "month", "day")
    write(
        bundled("flights").filter(day.is_between(DAY - timedelta(days=7), DAY - timedelta(days=6))), flights
    )


@DAMAGES.files(weather=stopped("yesterday's"))
def stale_readings_with_new_dates(flights: Path, weather: Path) -> None:
    """Yesterday's weather was sent again, dated today."""
    before = bundled("weather").filter(pl.date("year", "month", "day") == DAY - timedelta(days=1))
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ") + timedelta(days=1)
    write(
        before.with_columns(day=pl.lit(DAY.day), time_hour=hour.dt.strftime("%Y-%m-%dT%H:%M:%SZ")),
        weather,
    )
