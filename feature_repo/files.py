"""Reading data files: CSV (plain, zipped, gzipped) and Parquet become typed frames, or an error by name.

Nothing is lost or guessed: a value that is not of its column's type, a line that was cut off or a missing
column refuses the file. Unknown columns are kept, as text, so that whoever validates can tell of them.
"""

import csv
import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from feature_repo.contract import Delivery, SourceFile
from feature_repo.errors import SourceError

Columns = Mapping[str, type[pl.DataType]]
FORMATS = {".csv", ".zip", ".gz", ".parquet"}
MISSING = ["NA", "NaN", ""]
UNREADABLE = (pl.exceptions.PolarsError, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError)


def read_place(place: str, columns: Columns) -> Delivery | None:
    """Read the file at a path or URL; None if there is none. Raises SourceError."""
    if not place.startswith(("http://", "https://")):
        return read_file(Path(place), columns) if Path(place).exists() else None
    import httpx

    answer = httpx.get(place, follow_redirects=True, timeout=60)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.is_error:
        raise SourceError(
            place, got=f"HTTP {answer.status_code}", expected="the file", next_step="Try the URL by hand."
        )
    return parse(place, answer.content, columns)


def read_file(path: Path, columns: Columns) -> Delivery:
    """Read a file. Raises SourceError if it is unreadable, cut off or lacks a column."""
    return parse(str(path), path.read_bytes(), columns)


def parse(name: str, content: bytes, columns: Columns) -> Delivery:
    """Read a file's bytes; the name's ending tells the format. Raises SourceError."""
    file = SourceFile(name, hashlib.sha256(content).hexdigest())
    try:
        if name.endswith(".parquet"):
            frame = pl.read_parquet(content)
        else:
            content = _unpack(name, content)
            frame = pl.read_csv(content, null_values=MISSING, infer_schema=False)
    except UNREADABLE as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(
            name, got=f"unreadable ({said})", expected="CSV or Parquet", next_step="Fetch the file again."
        ) from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise SourceError(
            name,
            got=f"no column {', '.join(missing)}; the header reads {', '.join(frame.columns)[:200]!r}",
            expected=f"columns {', '.join(columns)}, with commas between them",
            next_step="Correct the file's header.",
        )
    if not name.endswith(".parquet"):
        _refuse_cut_off(name, content, frame.width)
    rows = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # without blank lines
    return Delivery(_typed(name, rows, columns), (file,))


def _unpack(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.decompress(content)
    if not name.endswith(".zip"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
        if len(inside) != 1:
            # To read the first and leave the others would lose rows without a word.
            raise ValueError(f"{len(inside)} files in the archive instead of one")
        return archive.read(inside[0])


def _refuse_cut_off(name: str, content: bytes, width: int) -> None:
    # Short lines read as if their last values were missing: a file that was cut off must not pass for whole.
    last = content.rstrip(b"\r\n").rsplit(b"\n", 1)[-1].decode(errors="replace")
    fields = len(next(csv.reader([last]), []))
    if fields != width:
        raise SourceError(
            name,
            got=f"a last line of {fields} fields",
            expected=f"{width}, as in the header",
            next_step="The file was cut off: fetch it again.",
        )


def _typed(name: str, frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    # A value that is not of its type must stop here and by name: as null it would pass for missing.
    typed = {}
    for column, kind in columns.items():
        told = frame[column]
        values = _plain(told, kind)
        cast = _cast(values, kind)
        broken = told.filter(cast.is_null() & values.is_not_null())
        if len(broken):
            raise SourceError(
                f"{name}, column {column}",
                got=f"{broken[0]!r} and {len(broken) - 1} more",
                expected=str(kind),
                next_step="Correct the values in the file.",
            )
        typed[column] = cast
    unknown = {n: frame[n].cast(pl.String, strict=False) for n in frame.columns if n not in columns}
    return pl.DataFrame({**typed, **unknown})


def _plain(told: pl.Series, kind: type[pl.DataType]) -> pl.Series:
    """Return values without other ways to write that one is missing, and numbers without blanks around."""
    if told.dtype.is_float():
        return told.fill_nan(None)
    if told.dtype != pl.String or kind == pl.String:
        return told
    plain = told.str.strip_chars()
    return plain.set(plain.is_in(MISSING), None)


def _cast(values: pl.Series, kind: type[pl.DataType]) -> pl.Series:
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    if kind == pl.String:
        return values.cast(pl.String, strict=False)
    numbers = values.cast(pl.Float64, strict=False)
    if kind == pl.Float64:
        return numbers
    # 517.0 is the integer 517, as other tools write it beside missing values; 517.5 is not one.
    return numbers.set(numbers != numbers.round(), None).cast(kind, strict=False)
