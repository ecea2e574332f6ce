"""Ingest: what became known in a period is validated and lands in the lake, each batch in one commit.

The manifest comes last (see flows/batches.py): a batch without one is done again, to the same rows.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from feature_repo.contract import Period, RawTable
from feature_repo.errors import LakeBusy, OutOfOrder
from flows.batches import Batch, take_in
from flows.lineage import emit_features, emit_ingest
from flows.manifests import (
    LANDED,
    STOPPED,
    UNCHANGED,
    Manifest,
    high_water,
    landed_batches,
    read_manifests,
)
from flows.project import Project, open_project

ODD = "perennial.data.odd"  # event: a batch stopped, or landed and was odd


def ingest_period(project: Project, period: Period, *, pages: bool = False) -> list[Manifest]:
    """Land what became known in the period, for every raw table; return one manifest a table.

    A part of the period that landed before is left alone. A batch that breaks a batch rule does not
    land; its manifest says why, and the next run starts from where it would have. A batch in which
    something is odd gets a validation page; with `pages` each does.

    Raises OutOfOrder if the period begins before what has landed does: the lake grows at its end alone.
    """
    with project.lake.writer(f"ingest of {period}"):
        known = read_manifests(project.lake)
        _refuse_earlier(project, known, period)
        stretches = {t.name: _next_stretch(known, t, period) for t in project.problem.raw}
        batches = {
            t.name: Batch(t, todo, project.fetch(t.name, todo))
            for t in project.problem.raw
            if (todo := stretches[t.name])
        }
        manifests = take_in(project, batches, known, pages=pages)
    landed = {m.table: m for m in manifests}
    return [landed.get(t.name) or _unchanged(known, t.name, period) for t in project.problem.raw]


def landed_until(project: Project, table: str | None = None) -> datetime:
    """Return up to when the table, or every table, has landed without a gap.

    One that never did: from when the others did, or the problem's start.
    """
    known = read_manifests(project.lake)
    names = [table] if table else [t.name for t in project.problem.raw]
    begun = _find_first(project, known) or project.problem.start
    return min(high_water(known, name) or begun for name in names)


def _find_first(project: Project, known: pl.DataFrame) -> datetime | None:
    """Return from when data has landed, or None. A table that reaches ahead of time was asked for later."""
    landed = known.filter(pl.col("status") == LANDED).group_by("table").agg(pl.col("since").min())
    first = dict(landed.iter_rows())
    return min((first[t.name] + t.ahead for t in project.problem.raw if t.name in first), default=None)


def _refuse_earlier(project: Project, known: pl.DataFrame, period: Period) -> None:
    # Features that look back, labels and online rows would have to follow, and models have learnt from them.
    first = _find_first(project, known)
    if first is None or period.since >= first:
        return
    day = project.local_day(period.since)
    raise OutOfOrder(
        f"ingest of {period}",
        got=f"data from {first:%Y-%m-%dT%H:%MZ} to {landed_until(project):%Y-%m-%dT%H:%MZ} landed before",
        expected="a period that begins no earlier; nothing of it was taken in",
        next_step=f"To have earlier days, begin with an empty home: `make clean`, then backfill from {day}.",
    )


def _next_stretch(known: pl.DataFrame, table: RawTable, period: Period) -> Period | None:
    # From where the last batch ended, so that no gap is left; the first batch reaches ahead of time.
    landed = high_water(known, table.name)
    if landed is None:
        tried = known.filter(pl.col("table") == table.name)["since"].to_list()
        return Period(min([period.since - table.ahead, *tried]), period.until)
    return Period(landed, period.until) if landed < period.until else None


def _unchanged(known: pl.DataFrame, table: str, period: Period) -> Manifest:
    mine = landed_batches(known, table)
    over = [m for m in mine if m.until > period.since and m.since < period.until]
    return replace((over or mine)[-1], status=UNCHANGED, reasons="these batches landed before")


def is_busy(task: Any, run: Any, state: Any) -> bool:
    """Tell whether a step failed only because somebody else writes to the lake: upkeep, say."""
    return isinstance(state.result(raise_on_failure=False), LakeBusy)


@task(
    name="ingest and validate",
    cache_policy=NO_CACHE,
    retries=4,
    retry_delay_seconds=15,
    retry_condition_fn=is_busy,
)
def ingest(project: Project, period: Period) -> list[Manifest]:
    """Land the period's batches; a stopped one is a warning here and a line in the artifact."""
    manifests = ingest_period(project, period, pages=True)
    emit_ingest(project, manifests)
    for manifest in manifests:
        if manifest.status == STOPPED:
            get_run_logger().warning("%s stopped: %s", manifest.batch_id, manifest.reasons)
        elif manifest.warnings and manifest.status == LANDED:
            get_run_logger().warning("%s landed, and is odd: %s", manifest.batch_id, manifest.warnings)
        if manifest.status == STOPPED or (manifest.warnings and manifest.status == LANDED):
            _tell_prefect(manifest)
    return manifests


def _tell_prefect(manifest: Manifest) -> None:
    # For automations, such as a notification. What is odd is also kept in the manifest and in the metrics.
    emit_event(
        ODD,
        resource={"prefect.resource.id": f"perennial.table.{manifest.table}"},
        payload={
            "batch": manifest.batch_id,
            "status": manifest.status,
            "what": manifest.reasons or manifest.warnings,
        },
    )


def choose_hours(project: Project, hours: int, now: datetime) -> Period | None:
    """Return the next hours that have not landed, as far as they are over; None if not one is."""
    since = landed_until(project)
    over = now.replace(minute=0, second=0, microsecond=0)
    until = min(since + timedelta(hours=hours), over)
    return Period(since, until) if since < until else None


@flow(name="hourly-ingest")
def hourly_ingest(hours: int = 1) -> list[dict[str, Any]]:
    """Take in the next `hours` after the last batch, and bring the online features up to date."""
    from flows.data_quality import write_metrics
    from flows.features import build, find_unbuilt, materialize
    from flows.summary import publish_manifests

    project = open_project()
    period = choose_hours(project, hours, datetime.now(UTC))
    if period is None:
        get_run_logger().info("nothing to take in: no hour has ended since %s", landed_until(project))
        return []
    manifests = ingest(project, period)
    unbuilt = find_unbuilt(project, period)
    materialize(project, build(project, unbuilt), unbuilt)
    emit_features(project, unbuilt)
    publish_manifests("hourly-ingest", manifests, project.settings)
    write_metrics(project)
    return [asdict(manifest) for manifest in manifests]
