"""Corrections: the source tells the past anew, and everything that was made of it follows.

`restate_period` asks the source again for batches that have landed. One whose rows differ lands as a new
revision, in one commit, through the same rules. `follow_corrections` then brings the features that read
it, the online store and the labels. Old snapshots keep what they saw.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

import polars as pl
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Period
from flows.batches import Batch, take_in
from flows.data_quality import write_metrics
from flows.features import STAMP, refresh_online, write_features
from flows.ingest import is_busy
from flows.label import TABLE as LABELS
from flows.label import label_period
from flows.lineage import emit_features, emit_ingest
from flows.manifests import LANDED, Manifest, landed_batches, read_manifests, record_manifests
from flows.project import Project, open_project


@dataclass(frozen=True)
class Followed:
    """What was brought after restated batches: rows recomputed by feature table, rows online, labels."""

    batches: tuple[str, ...] = ()
    features: Mapping[str, int] | None = None
    online: int = 0
    labels: int = 0


def restate_period(project: Project, period: Period) -> list[Manifest]:
    """Ask anew for every batch that landed in the period; land what differs, and return its manifests.

    A restated batch that breaks a batch rule does not land: what had landed stays.
    """
    with project.lake.writer(f"restatement of {period}"):
        known = read_manifests(project.lake)
        told = []
        for batches in _find_restated(project, known, period):
            told += take_in(project, batches, known)
        return told


def follow_corrections(project: Project) -> Followed:
    """Bring features, online store and labels after every restated batch that they have not seen."""
    with project.lake.writer("following corrections"):
        known = read_manifests(project.lake)
        pending = [m for t in project.problem.raw for m in landed_batches(known, t.name) if not m.followed]
        if not pending:
            return Followed()
        features = _recompute(project, pending)
        online = refresh_online(project) if features else 0
        labels = sum(_relabel(project, period) for period in {m.period for m in pending})
        record_manifests(project.lake, [replace(m, followed=True) for m in pending])
    return Followed(tuple(m.batch_id for m in pending), features, online, labels)


def _find_restated(project: Project, known: pl.DataFrame, period: Period) -> list[dict[str, Batch]]:
    """Return what differs, batches of one stretch together, oldest first."""
    tables = {t.name: t for t in project.problem.raw}
    landed = [
        m
        for name in tables
        for m in landed_batches(known, name)
        if m.until > period.since and m.since < period.until
    ]
    found = []
    for _, alike in groupby(sorted(landed, key=lambda m: (m.since, m.until)), lambda m: (m.since, m.until)):
        asked = {
            m.table: Batch(tables[m.table], m.period, project.fetch(m.table, m.period), m) for m in alike
        }
        differing = {name: batch for name, batch in asked.items() if batch.differs}
        found += [differing] if differing else []
    return found


def _recompute(project: Project, pending: Sequence[Manifest]) -> dict[str, int]:
    counts = {}
    for table in project.problem.feature_tables:
        touching = [m for m in pending if m.table in table.reads]
        built = project.lake.latest(table.name, STAMP)
        if not touching or built is None:
            continue
        since = min(m.since for m in touching)
        until = min(max(m.until for m in touching) + table.lookback, built)
        if since < until:
            stretch = Period(since, until)
            counts[table.name] = len(write_features(project, table, stretch))
            emit_features(project, stretch, tables=(table,))
    return counts


def _relabel(project: Project, period: Period) -> int:
    if not project.lake.has(LABELS):
        return 0
    return label_period(project.lake, project.journal, project.problem, period).labelled


def describe(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    """Return what each restated batch changed, for people."""
    rows = []
    for m in manifests:
        changes = json.loads(m.changes or "{}")
        columns = ", ".join(f"{name} {n}" for name, n in changes.get("columns", {}).items())
        rows.append(
            {
                "batch": m.batch_id,
                "status": m.status if m.status == LANDED else f"{m.status}: {m.reasons}",
                "revision": m.revision,
                **{name: changes.get(name, 0) for name in ("added", "removed", "changed")},
                "in quarantine": m.quarantined,
                "columns": columns,
                "examples": "; ".join(changes.get("examples", [])),
                "page": m.page,
            }
        )
    return rows


@task(
    name="corrections",
    cache_policy=NO_CACHE,
    retries=4,
    retry_delay_seconds=15,
    retry_condition_fn=is_busy,
)
def correct(project: Project, period: Period) -> tuple[list[Manifest], Followed]:
    """Land what the source restated in the period, and bring everything after it."""
    from flows.summary import publish_table

    told = restate_period(project, period)
    followed = follow_corrections(project)
    emit_ingest(project, told)
    told += _read_earlier(project, set(followed.batches) - {m.batch_id for m in told})
    if told:
        publish_table("corrections", describe(told), "Batches that the source restated, and what changed")
        write_metrics(project)
    return told, followed


def _read_earlier(project: Project, batches: set[str]) -> list[Manifest]:
    # Landed by a run that was killed before it could tell of them.
    known = read_manifests(project.lake).filter(pl.col("batch_id").is_in(list(batches)))
    return [Manifest(**row) for row in known.iter_rows(named=True)]


@flow(name="restate")
def restate(since: date, until: date) -> dict[str, Any]:
    """Ask the source anew for the days from `since` up to and without `until`; land what has changed."""
    project = open_project()
    period = Period(project.day(since).since, project.day(until).since)
    known = read_manifests(project.lake).filter(status=LANDED)
    asked = known.filter((pl.col("until") > period.since) & (pl.col("since") < period.until))
    told, followed = correct(project, period)
    return {"asked": len(asked), "restated": describe(told), "followed": asdict(followed)}


def recheck(project: Project, before: datetime, days: int) -> Period:
    """Return the stretch of `days` before an instant that a daily run asks the source about again."""
    return Period(max(project.problem.start, before - timedelta(days=days)), before)
