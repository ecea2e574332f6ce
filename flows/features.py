"""Features: each feature table's ticks of a period, computed once, kept in the lake, written online."""

import json
from collections.abc import Mapping

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import FeatureTable, Period, RawTable
from feature_repo.fingerprint import fingerprint
from feature_repo.lake import Snapshot
from feature_repo.materializations import Materializations
from flows.built_features import DEFINITION, PERIOD, VERSIONS, BuiltFeatures
from flows.project import Project

STAMP = "event_timestamp"


def build_features(project: Project, period: Period) -> dict[str, pl.DataFrame]:
    """Compute every feature table's ticks in (since, until] and put them into the lake.

    Ticks that stand already, by the same definition and from rows that have not changed, are read back.
    """
    built = BuiltFeatures(project)
    return {
        table.name: write_features(project, table, period, built) for table in project.problem.feature_tables
    }


def write_features(
    project: Project, table: FeatureTable, period: Period, built: BuiltFeatures | None = None
) -> pl.DataFrame:
    """Compute one feature table's ticks in (since, until], put them into the lake and return them.

    The commit says which snapshot of the raw tables they were computed from, and by which definition.
    Raises DefinitionChanged if a live model takes the table as it was defined before.
    """
    definition = fingerprint(project.definitions[table.name])
    todo = built.find_missing(table, period, definition) if built else period
    if todo is None:
        return project.lake.read(table.name, period, STAMP, closed="right").sort(STAMP, *table.keys)
    snapshot = project.lake.current(table.reads)
    frame = compute_features(project, table, todo, snapshot)
    origin = {
        PERIOD: str(todo),
        "perennial.snapshot": snapshot.id,
        VERSIONS: json.dumps(dict(snapshot.versions)),
        DEFINITION: definition,
    }
    project.lake.replace(table.name, frame, todo, STAMP, closed="right", origin=origin)
    if todo.since == period.since:
        return frame
    before = project.lake.read(table.name, Period(period.since, todo.since), STAMP, closed="right")
    return pl.concat([before.select(frame.columns), frame]).sort(STAMP, *table.keys)


def compute_features(
    project: Project, table: FeatureTable, period: Period, snapshot: Snapshot | None = None
) -> pl.DataFrame:
    """Compute one feature table's ticks in (since, until] from what the lake holds, or held."""
    schemas = {raw.name: raw for raw in project.problem.raw}
    reach = Period(period.since - table.lookback, period.until)
    versions = snapshot.versions if snapshot else {}
    raw = {name: _read_raw(project, schemas[name], reach, versions.get(name)) for name in table.reads}
    ticks = table.ticks(period)
    empty = pl.DataFrame(
        schema={
            **dict.fromkeys(table.keys, pl.String),
            STAMP: pl.Datetime("us", "UTC"),
            **table.features,
        }
    )
    computed = table.compute_rows(raw, ticks) if ticks else empty
    return computed.select(empty.columns).sort(STAMP, *table.keys)


def find_unbuilt(project: Project, period: Period) -> Period:
    """Return the period, begun earlier if a run before it was killed before its features were online."""
    tables = project.problem.feature_tables
    if not project.lake.has(project.problem.raw[0].name):
        return period
    newest = [project.lake.latest(table.name, STAMP) for table in tables]
    newest.append(Materializations(project.settings.home / "feast").newest_tick())
    # A table that never had a row is computed from the start: it may be one that a kill left out.
    built = min(at or project.problem.start for at in newest)
    return Period(min(built, period.since), period.until)


def materialize_period(project: Project, frames: Mapping[str, pl.DataFrame], period: Period) -> int:
    """Write the newest value of each key among the ticks in (since, until] online; return rows changed."""
    return project.store.write_period(frames, period)


def refresh_online(project: Project) -> int:
    """Write the newest value of each key anew from the lake, after a correction; return rows changed."""
    return project.store.refresh()


def _read_raw(project: Project, table: RawTable, period: Period, version: int | None) -> pl.DataFrame:
    if version is not None and version < 0:
        return pl.DataFrame(schema=dict(table.schema))
    frame = project.lake.read(table.name, period, by=table.known_at, version=version)
    return frame if frame.width else pl.DataFrame(schema=dict(table.schema))


@task(name="features", cache_policy=NO_CACHE)
def build(project: Project, period: Period) -> dict[str, pl.DataFrame]:
    """Compute the period's features and keep them in the lake."""
    return build_features(project, period)


@task(name="materialize", cache_policy=NO_CACHE)
def materialize(project: Project, frames: Mapping[str, pl.DataFrame], period: Period) -> int:
    """Write the period's newest features to the online store."""
    return materialize_period(project, frames, period)
