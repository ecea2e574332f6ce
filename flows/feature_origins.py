"""From the features of an answer to the rows that they were computed from, their batches and their files."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from feature_repo.contract import FeatureTable, Period, RawTable
from feature_repo.errors import NotEnoughData
from feature_repo.lake import content_hash
from feature_repo.materializations import Materializations
from flows.manifests import read_manifests
from flows.online_past import OnlinePast, PastRow
from flows.project import Project
from services.journal import Prediction

STAMP = "event_timestamp"
SHOWN_ROWS = 5


@dataclass(frozen=True)
class Origin:
    """One batch that rows came from; `status` is "unknown" if no manifest names it."""

    batch_id: str
    rows: int
    status: str
    since: datetime | None
    until: datetime | None
    files: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class SourceRows:
    """The rows of one raw table that a feature row was computed from.

    exact   whether they were read at the version that it was computed from; if not, at the newest one
    """

    table: str
    version: int
    rows: int
    sha256: str
    batches: tuple[Origin, ...]
    first_rows: tuple[Mapping[str, Any], ...]
    exact: bool = True


@dataclass(frozen=True)
class FeatureRow:
    """One row of a feature table behind an answer.

    tick      from when the row holds; None if there was none that may be used
    age       from the tick to the decision
    values    as the table holds them; `answered`: as the answer recorded them
    agrees    whether the two are the same
    logged    whether the log of online writes named the row; else it is the fitting one as the table is now
    """

    table: str
    version: int
    keys: Mapping[str, Any]
    tick: datetime | None
    age: timedelta | None
    values: Mapping[str, Any]
    answered: Mapping[str, Any]
    agrees: bool
    logged: bool
    sources: tuple[SourceRows, ...] = ()


def find_feature_rows(project: Project, prediction: Prediction) -> list[FeatureRow]:
    """Return the row of each feature table that the answer's values came from.

    What the log of online writes says was online then. Without one, or if that explains no value, the
    newest row that was fresh enough at the decision, as the table is now.
    """
    answered = json.loads(prediction.features)
    keys = {**json.loads(prediction.request), **answered}
    decided, at = (datetime.fromisoformat(t) for t in (prediction.requested_at, prediction.received_at))
    past = OnlinePast(project.lake, project.problem, Materializations(project.settings.home / "feast").read())
    found = []
    for table in project.problem.feature_tables:
        asked = {**{key: _as_text(keys.get(key)) for key in table.keys}, project.problem.decided_at: decided}
        told = {name: answered.get(name) for name in table.features}
        held = _find_online(past, table, asked, told, at)
        usable = held is not None and 0 <= decided.timestamp() - held.stamp <= table.ttl.total_seconds()
        logged = usable or (held is not None and all(value is None for value in told.values()))
        if held is None or not logged:
            held = _find_as_of(project, table, asked, decided)
        elif not usable:
            held = PastRow(table.name, held.version)  # what was online was expired, and not used
        found.append(_to_feature_row(table, held, asked, decided, told, logged))
    return found


def add_sources(project: Project, rows: Sequence[FeatureRow]) -> tuple[FeatureRow, ...]:
    """Return the rows with what each was computed from."""
    manifests = {known["batch_id"]: known for known in read_manifests(project.lake).iter_rows(named=True)}
    return tuple(_with_sources(project, row, manifests) if row.tick else row for row in rows)


def _find_online(
    past: OnlinePast, table: FeatureTable, asked: dict[str, Any], told: dict[str, Any], at: datetime
) -> PastRow | None:
    if past.find_write(at) is None:
        return None
    try:
        rows = past.find_rows(table, asked, at)
    except NotEnoughData:  # the version that was online is gone
        return None
    return next((row for row in rows if row.values and _plain(row.values) == told), rows[0])


def _find_as_of(project: Project, table: FeatureTable, asked: dict[str, Any], decided: datetime) -> PastRow:
    fresh = Period(decided - table.ttl - timedelta(microseconds=1), decided)
    version = project.lake.version(table.name)
    rows = project.lake.read(table.name, fresh, by=STAMP, closed="right")
    mine = _match(rows, {key: asked[key] for key in table.keys}).sort(STAMP) if rows.width else rows
    if not len(mine):
        return PastRow(table.name, version)
    newest = mine.row(-1, named=True)
    values = {name: newest[name] for name in table.features}
    return PastRow(table.name, version, newest[STAMP].timestamp(), values)


def _to_feature_row(
    table: FeatureTable,
    held: PastRow,
    asked: dict[str, Any],
    decided: datetime,
    told: dict[str, Any],
    logged: bool,
) -> FeatureRow:
    tick = datetime.fromtimestamp(held.stamp, UTC) if held.values is not None else None
    values = _plain(held.values or dict.fromkeys(table.features))
    return FeatureRow(
        table=table.name,
        version=held.version,
        keys={key: asked[key] for key in table.keys},
        tick=tick,
        age=decided - tick if tick else None,
        values=values,
        answered=told,
        agrees=values == told,
        logged=logged,
    )


def _with_sources(project: Project, row: FeatureRow, manifests: Mapping[str, Any]) -> FeatureRow:
    table, tick = project.problem.table(row.table), row.tick
    assert tick is not None
    reach = Period(tick - table.lookback, tick)
    raw = {known.name: known for known in project.problem.raw}
    versions = _find_raw_versions(project, row)
    shared = {key: row.keys[key] for key in table.source_keys}
    sources = tuple(
        _find_sources(project, raw[name], versions.get(name), reach, shared, manifests)
        for name in table.reads
    )
    return replace(row, sources=sources)


def _find_raw_versions(project: Project, row: FeatureRow) -> dict[str, int]:
    """Return the raw tables' versions that the row was computed from, as its commit says; else none."""
    for commit in project.lake.history(row.table, row.version):
        since, _, until = commit.get("perennial.period", "").partition("/")
        # The text is in whole minutes; ticks are in (since, until].
        if until and row.tick and datetime.fromisoformat(since) < row.tick <= datetime.fromisoformat(until):
            versions: dict[str, int] = json.loads(commit["perennial.versions"])
            return {name: v for name, v in versions.items() if project.lake.can_read(name, v)}
    return {}


def _find_sources(
    project: Project,
    raw: RawTable,
    version: int | None,
    reach: Period,
    keys: Mapping[str, Any],
    manifests: Mapping[str, Mapping[str, Any]],
) -> SourceRows:
    rows, exact = project.lake.read(raw.name, reach, by=raw.known_at, version=version), version is not None
    version = project.lake.version(raw.name) if version is None else version
    if not rows.width:
        return SourceRows(raw.name, version, 0, "", (), (), exact)
    rows = _match(rows, {key: value for key, value in keys.items() if key in raw.schema})
    rows = rows.sort(raw.known_at, *raw.key)
    counts = rows.group_by("batch_id", maintain_order=True).len()
    batches = tuple(_find_origin(batch, count, manifests) for batch, count in counts.iter_rows())
    first = tuple(rows.head(SHOWN_ROWS).to_dicts())
    return SourceRows(raw.name, version, len(rows), content_hash(rows), batches, first, exact)


def _find_origin(batch_id: str, rows: int, manifests: Mapping[str, Mapping[str, Any]]) -> Origin:
    known = manifests.get(batch_id)
    if known is None:
        return Origin(batch_id, rows, "unknown", None, None, ())
    files = tuple(json.loads(known["files"] or "[]"))
    return Origin(batch_id, rows, known["status"], known["since"], known["until"], files)


def _match(rows: pl.DataFrame, keys: Mapping[str, Any]) -> pl.DataFrame:
    return rows.filter(pl.col(key).eq_missing(pl.lit(value)) for key, value in keys.items()) if keys else rows


def _as_text(key: Any) -> str | None:
    return None if key is None else str(key)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    # As JSON tells it: no number is no value.
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
