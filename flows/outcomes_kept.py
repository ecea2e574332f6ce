"""The outcomes that the loop keeps, each with its fate, and how far into the journal it has looked."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import Lake, write_atomically
from flows.outcomes import FATES, LABEL_SCHEMA, TOLD_SCHEMA, Resolved, Schema
from services.journal_records import Mark

TABLE = "told_outcomes"
LABELS = "labels"
KEPT_SCHEMA: Schema = {"thing": pl.String, **TOLD_SCHEMA, "fate": pl.String}
MARK = "_labelled.json"  # beside the tables; without it everything that was ever told is looked at again
EVER = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


class Looked(NamedTuple):
    """How far labels have come: rows of the journal, and logical time."""

    mark: Mark = Mark()
    until: datetime = EVER


def read_looked(lake: Lake) -> Looked:
    """Return how far labels have come; from the start if nothing says so."""
    file = lake.root / MARK
    if not (file.is_file() and lake.has(TABLE)):
        return Looked()
    told = json.loads(file.read_text())
    return Looked(Mark(**told["mark"]), datetime.fromisoformat(told["until"]))


def write_looked(lake: Lake, looked: Looked) -> None:
    """Keep how far labels have come."""
    told = {"mark": looked.mark._asdict(), "until": looked.until.isoformat()}
    write_atomically(lake.root / MARK, json.dumps(told))


def read_kept(lake: Lake, things: Iterable[str] | None = None) -> pl.DataFrame:
    """Return the outcomes kept, of all things or of some, as KEPT_SCHEMA says."""
    kept = lake.read(TABLE)
    if not kept.width:
        return pl.DataFrame(schema=KEPT_SCHEMA)
    kept = kept.select(list(KEPT_SCHEMA))
    return kept if things is None else kept.filter(pl.col("thing").is_in(list(things)))


def write_resolved(lake: Lake, resolved: Resolved, before: pl.DataFrame, things: Iterable[str]) -> None:
    """Make what was resolved all that is kept of the things; `before` is what was kept of them."""
    instants = pl.concat([before["known_at"], resolved.told["known_at"]])
    if not len(instants):
        return
    first, last = instants.min(), instants.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    stretch, gone = Period(first, last + MOMENT), list(things)
    _replace(lake, TABLE, resolved.told, stretch, pl.col("thing").is_in(gone), KEPT_SCHEMA)
    _replace(lake, LABELS, resolved.labels, stretch, pl.col("entity").is_in(gone), LABEL_SCHEMA)


def count_fates(kept: pl.DataFrame) -> dict[str, int]:
    """Return how many outcomes met each fate."""
    counted = dict(kept.group_by("fate").len().iter_rows())
    return {fate: counted.get(fate, 0) for fate in FATES}


def _replace(
    lake: Lake, table: str, frame: pl.DataFrame, stretch: Period, gone: pl.Expr, schema: Schema
) -> None:
    there = lake.read(table, stretch, by="known_at")
    others = there.select(list(schema)).filter(~gone) if there.width else frame.clear()
    rows = pl.concat([others, frame.select(list(schema))]).sort(list(schema))
    lake.replace(table, rows, stretch, by="known_at")
