"""The profile of a batch: what is measured of it, once, in one pass of Polars.

Batch rules are rules over the profile; each manifest keeps its batch's profile, so that the profiles of a
table are a time series. The names of the measures are stable:

rows                    rows in the batch
duplicates              rows whose key occurs more than once
age_hours               from the newest `known_at` to the end of the period, in hours; negative if ahead of it
<column>.null_share     share of the rows without a value, 0 to 1
<number>.min .p05 .p50 .p95 .max .mean   of the values there are
<text>.distinct         different values; not for a key of one column, where it says what `rows` says
<text>.top              share of the most common value, where there are no more than FEW different ones
<instant>.newest        the newest instant, in seconds since 1970 UTC

A measure that is undefined (the median of a column without values, say) is left out.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite

import polars as pl

from feature_repo.contract import Period, RawTable

FEW = 30
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


def profile_batch(
    frame: pl.DataFrame | pl.LazyFrame, table: RawTable, period: Period, *, duplicates: float | None = None
) -> dict[str, float]:
    """Return the measures of a batch by name.

    A LazyFrame is read column by column, so that no more than one column is in memory; its `.distinct` is
    then estimated, to about 1%. Whoever has counted the `duplicates` in parts hands them in.
    """
    lazy = frame.lazy()
    kinds = {name: kind for name, kind in lazy.collect_schema().items() if name in table.schema}
    if isinstance(frame, pl.DataFrame):
        measured = frame.select(e for name, kind in kinds.items() for e in _measures(name, kind, table))
    else:
        measured = pl.concat([_measure_column(lazy, *one, table) for one in kinds.items()], how="horizontal")
    rows = lazy.select(pl.len()).collect(engine="streaming").item()
    values = measured.row(0, named=True)
    if duplicates is None:
        duplicates = count_duplicates(lazy, table)
    told = {"rows": rows, "duplicates": duplicates, **values}
    if (newest := values.get(f"{table.known_at}.newest")) is not None:
        told["age_hours"] = (period.until.timestamp() - newest) / 3600
    many = {f"{name}.top" for name in kinds if told.get(f"{name}.distinct", 0) > FEW}
    defined = {name: value for name, value in told.items() if value is not None and name not in many}
    return {name: float(value) for name, value in defined.items() if isfinite(value)}


def is_measure(name: str, table: RawTable) -> bool:
    """Return whether a batch rule on this name is one on a measure, not on a column of the frame."""
    column, _, kind = name.rpartition(".")
    return name in {"rows", "duplicates", "age_hours"} or bool(kind and column in table.schema)


def count_duplicates(lazy: pl.LazyFrame, table: RawTable) -> int:
    """Return how many rows share their key with another row."""
    counted = lazy.group_by(table.key).agg(pl.len().alias("_rows")).filter(pl.col("_rows") > 1)
    return int(counted.select(pl.col("_rows").sum()).collect(engine="streaming").item())


def show(measure: str, value: float) -> str:
    """Return a measure's value in words: an instant as such, a whole number without a point."""
    if measure.endswith(".newest"):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S}"
    if measure.endswith(("_share", ".top")):
        return f"{value:.1%}"
    return f"{value:.10g}" if value == int(value) else f"{value:.4g}"


def as_row(profile: Mapping[str, float]) -> pl.DataFrame:
    """Return the profile as a frame of one row, a column a measure."""
    return pl.DataFrame([dict(profile)])


def _measures(name: str, kind: pl.DataType, table: RawTable) -> Iterator[pl.Expr]:
    column = pl.col(name)
    yield (column.null_count() / pl.len()).alias(f"{name}.null_share")
    if kind.is_numeric():
        # A number that is not one would hide the others.
        column = column.cast(pl.Float64).fill_nan(None)
        yield from (getattr(column, m)().alias(f"{name}.{m}") for m in ("min", "max", "mean"))
        yield from (column.quantile(q, "nearest").alias(f"{name}.{m}") for m, q in QUANTILES.items())
    elif isinstance(kind, pl.Datetime):
        yield (column.max().dt.timestamp("us") / 1e6).alias(f"{name}.newest")
    elif _is_text(name, kind, table):
        yield column.drop_nulls().n_unique().alias(f"{name}.distinct")
        yield (column.drop_nulls().unique_counts().max() / column.count()).alias(f"{name}.top")


def _measure_column(lazy: pl.LazyFrame, name: str, kind: pl.DataType, table: RawTable) -> pl.DataFrame:
    if not _is_text(name, kind, table):
        return lazy.select(*_measures(name, kind, table)).collect(engine="streaming")
    column = pl.col(name)
    share = (column.null_count() / pl.len()).alias(f"{name}.null_share")
    distinct = column.drop_nulls().approx_n_unique().alias(f"{name}.distinct")
    told = lazy.select(share, distinct).collect(engine="streaming")
    if told[f"{name}.distinct"].item() > FEW:
        return told
    counts = lazy.drop_nulls(name).group_by(name).len().select(pl.col("len").max() / pl.col("len").sum())
    return told.with_columns(counts.collect(engine="streaming")["len"].alias(f"{name}.top"))


def _is_text(name: str, kind: pl.DataType, table: RawTable) -> bool:
    return kind == pl.String and (name,) != tuple(table.key)
