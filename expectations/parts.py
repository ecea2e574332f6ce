"""Batches too large for one table in memory: what Great Expectations gets to see of them.

Three things keep it quick and its memory bounded, none of which decides anything:

- A batch of more than PART rows is split by the hash of its key, so that rows of one key stay together
  and uniqueness by key stays exact. Each part goes through the same rules.
- A rule on one column of text or of yes and no is a function of the value: where few values come again and
  again, Great Expectations judges each value once, and all rows with a failing value fail.
- Text that is only asked whether it is there, or there once, goes over as whole numbers that are equal where
  the text is.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs

from expectations.rules import Rule

PART = 400_000  # rows that Great Expectations is given at most
DIRECT = 20_000  # up to this many rows it is given them as they are: nothing would be gained
ROW = "_row"
IDENTITY = {"ExpectColumnValuesToBeUnique", "ExpectCompoundColumnsToBeUnique"}
PRESENCE = {"ExpectColumnValuesToNotBeNull", "ExpectColumnValuesToBeNull"}
BY_VALUE = {
    *PRESENCE,
    "ExpectColumnMaxToBeBetween",
    "ExpectColumnMinToBeBetween",
    "ExpectColumnValuesToBeBetween",
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToMatchRegex",
}


@dataclass(frozen=True)
class Sight:
    """A frame as Great Expectations gets to see it, for these rules.

    A sight by values has columns of different values, each padded by repeating one of them; else it has the
    frame's rows in order.
    """

    frame: pl.DataFrame
    rules: tuple[Rule, ...]
    by_value: bool = False

    def find_rows(self, rule: Rule, found: Sequence[int], frame: pl.DataFrame) -> tuple[int, ...]:
        """Return which rows of the frame fail, from the positions that failed in this sight."""
        if not self.by_value or not found:
            return tuple(sorted(set(found)))
        values = self.frame[rule.columns[0]].gather(sorted(set(found))).unique()
        fails = pl.col(rule.columns[0]).is_in(values.implode(), nulls_equal=True)
        return tuple(frame.select(pl.arg_where(fails)).to_series().to_list())


def see(frame: pl.DataFrame, rules: Sequence[Rule]) -> list[Sight]:
    """Return what is to be judged for the rules to be judged on every row of the frame."""
    # A rule on a column that is not there must fail by itself, not here. Numbers of other widths than these
    # are judged one by one in Python.
    names = [name for name in frame.columns if any(name in rule.columns for rule in rules)]
    needed = frame.select(names).with_columns(cs.integer().cast(pl.Int64), cs.float().cast(pl.Float64))
    if len(frame) <= DIRECT:
        return [Sight(needed, tuple(rules))]
    few = {name: found for name in names if (found := _find_few(needed[name])) is not None}
    by_value = [rule for rule in rules if rule.expect in BY_VALUE and rule.columns[0] in few]
    by_row = [rule for rule in rules if rule not in by_value]
    sights = []
    if by_value:
        values = _pad([few[name] for name in dict.fromkeys(rule.columns[0] for rule in by_value)])
        sights.append(Sight(values, tuple(by_value), by_value=True))
    if by_row:
        sights.append(Sight(_encode(needed, by_row), tuple(by_row)))
    return sights


def split(
    frame: pl.DataFrame | pl.LazyFrame,
    key: Sequence[str],
    add_columns: Callable[[pl.DataFrame], pl.DataFrame],
) -> Iterator[pl.DataFrame]:
    """Yield the frame, its check columns added, in parts of about PART rows, with their positions in ROW.

    The rows of one key are together. A LazyFrame (of Parquet: it is read stretch by stretch) passes through
    files of its parts, once: it is never in memory as a whole, and `add_columns` sees a part at a time.
    """
    if isinstance(frame, pl.DataFrame):
        added = add_columns(frame).with_row_index(ROW)
        if len(added) <= PART:
            yield added
            return
        number = pl.struct(key).hash(seed=0) % (len(added) // PART + 1)
        yield from added.with_columns(_part=number).partition_by("_part", include_key=False)
        return
    for part in _spill(frame.with_row_index(ROW), key):
        yield add_columns(part.drop(ROW)).with_columns(part[ROW])


def _spill(lazy: pl.LazyFrame, key: Sequence[str]) -> Iterator[pl.DataFrame]:
    # Stretch by stretch: one sink for all parts at once holds much of the frame in its buffers.
    rows = lazy.select(pl.len()).collect(engine="streaming").item()
    if rows <= PART:
        yield lazy.collect()
        return
    number = pl.struct(key).hash(seed=0) % (rows // PART + 1)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, rows, PART):
            stretch = lazy.slice(start, PART).collect().with_columns(_part=number)
            for (part,), some in stretch.partition_by("_part", include_key=False, as_dict=True).items():
                place = Path(folder) / str(part)
                place.mkdir(exist_ok=True)
                some.write_parquet(place / f"{start}.parquet", compression="lz4")
        for place in sorted(Path(folder).iterdir()):
            yield pl.read_parquet(place / "*.parquet")


def _find_few(values: pl.Series) -> pl.Series | None:
    # The different values of text or of yes and no, if they are few for the number of rows.
    if values.dtype not in {pl.String, pl.Boolean} or values.head(DIRECT).n_unique() > DIRECT / 5:
        return None
    different = values.unique()
    return different if len(different) <= len(values) / 10 else None


def _pad(columns: Sequence[pl.Series]) -> pl.DataFrame:
    longest = max(len(column) for column in columns)
    return pl.DataFrame([c.extend_constant(c[0], longest - len(c)) for c in columns])


def _encode(frame: pl.DataFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    asked = {name: {rule.expect for rule in rules if name in rule.columns} for name in frame.columns}
    columns = [_code(name, frame.schema[name], asked[name]) for name in frame.columns if asked[name]]
    return frame.with_row_index(ROW).select(columns)


def _code(name: str, kind: pl.DataType, asked: set[str]) -> pl.Expr:
    column = pl.col(name)
    if kind != pl.String or not asked <= IDENTITY | PRESENCE:
        return column
    there = pl.when(column.is_not_null())
    if asked <= PRESENCE:
        return there.then(1).alias(name)
    # The position where a text comes first stands for the text.
    return there.then(pl.col(ROW).first().over(name)).alias(name).cast(pl.Int64)
