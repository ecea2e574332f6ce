"""Manifests: what became of each batch, one row a delivery, kept for good.

A batch's place is its table and period. A place is delivered once, or again when the source restates it:
then the newest landed manifest counts, and the earlier ones stay as "superseded", for lineage.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import Lake

MANIFESTS = "manifests"
LANDED, STOPPED, SUPERSEDED, UNCHANGED = "landed", "stopped", "superseded", "unchanged"


@dataclass(frozen=True)
class Manifest:
    """What became of one delivery of one batch.

    sha256    content hash of the rows as delivered; `files`: JSON list of {"name", "sha256"}
    status    landed, stopped, superseded; in answers also "unchanged": it had landed before
    reasons   why it stopped; `warnings`: what was odd and did not stop it
    profile   JSON: measure -> value, see `expectations.profile`
    version   of the table, as this delivery left it; -1 if it did not land
    revision  1, or more for a place that the source restated; `changes`: JSON, against the one before
    followed  whether features, online store and labels have been brought after a restatement
    page      the batch's validation page, as a path under the home
    """

    batch_id: str
    table: str
    source: str
    files: str
    sha256: str
    since: datetime
    until: datetime
    seen: int
    accepted: int
    quarantined: int
    status: str
    reasons: str
    warnings: str
    schema: str
    profile: str
    version: int
    revision: int
    changes: str
    followed: bool
    page: str

    @property
    def period(self) -> Period:
        """The stretch of logical time that the batch covers."""
        return Period(self.since, self.until)


def read_manifests(lake: Lake) -> pl.DataFrame:
    """Return all manifests, oldest first."""
    known = lake.read(MANIFESTS)
    return known.sort("since", "table", "revision") if len(known) else pl.DataFrame(schema=manifest_schema())


def record_manifests(lake: Lake, manifests: Iterable[Manifest]) -> None:
    """Keep manifests; those of one period in one commit. What a landed one replaces is superseded."""
    new = pl.DataFrame([asdict(m) for m in manifests], schema=manifest_schema())
    for (since,), rows in new.group_by("since", maintain_order=True):
        assert isinstance(since, datetime)
        at = Period(since, since + timedelta(microseconds=1))
        before = lake.read(MANIFESTS, at, by="since")
        kept = _keep(before, rows) if len(before) else before
        lake.replace(MANIFESTS, pl.concat([kept, rows]) if len(kept) else rows, at, by="since")


def landed_batches(known: pl.DataFrame, table: str) -> list[Manifest]:
    """Return the table's batches whose rows are in the lake, oldest first."""
    mine = known.filter((pl.col("table") == table) & (pl.col("status") == LANDED))
    return [Manifest(**row) for row in mine.sort("since").iter_rows(named=True)]


def high_water(known: pl.DataFrame, table: str) -> datetime | None:
    """Return up to when the table has landed, or None."""
    landed = known.filter((pl.col("table") == table) & (pl.col("status") == LANDED))
    newest = landed["until"].max() if len(landed) else None
    assert newest is None or isinstance(newest, datetime)
    return newest


def read_history(
    known: pl.DataFrame, table: str, before: datetime | None, back: timedelta | None = None
) -> pl.DataFrame:
    """Return the measures of the table's landed batches that ended by `before`, if given, oldest first.

    With `back`, only of those that began no longer than that before it.

    Columns: batch_id, since, until, measure, value (float).
    """
    kinds = manifest_schema()
    schema = {name: kinds[name] for name in ("batch_id", "since", "until")}
    mine = known.filter((pl.col("table") == table) & (pl.col("status") == LANDED))
    mine = mine.filter(pl.col("until") <= before) if before else mine
    mine = mine.filter(pl.col("since") >= before - back) if before and back else mine
    rows = [
        (batch_id, since, until, measure, value)
        for batch_id, since, until, profile in mine.sort("since")
        .select("batch_id", "since", "until", "profile")
        .iter_rows()
        for measure, value in json.loads(profile).items()
    ]
    whole = {**schema, "measure": pl.String(), "value": pl.Float64()}
    return pl.DataFrame(rows, schema=whole, orient="row")


def manifest_schema() -> dict[str, Any]:
    """Return the table's columns."""
    instant = pl.Datetime("us", "UTC")
    kinds: dict[str, pl.DataType] = {"since": instant, "until": instant, "followed": pl.Boolean()}
    kinds |= {name: pl.Int64() for name in ("seen", "accepted", "quarantined", "version", "revision")}
    return {name: kinds.get(name, pl.String()) for name in Manifest.__dataclass_fields__}


def _keep(before: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    # Earlier tries that stopped give way to a newer try; what had landed is superseded by what lands.
    tried = pl.col("table").is_in(new["table"].to_list()) & (pl.col("status") == STOPPED)
    landing = new.filter(pl.col("status") == LANDED)["table"].to_list()
    over = pl.col("table").is_in(landing) & (pl.col("status") == LANDED)
    kept = before.filter(~tried & ~pl.col("batch_id").is_in(new["batch_id"].to_list()))
    return kept.with_columns(status=pl.when(over).then(pl.lit(SUPERSEDED)).otherwise("status"))
