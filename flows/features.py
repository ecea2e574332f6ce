"""Features: each feature table's ticks of a period, computed once, kept in the lake, written online."""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import FeatureTable, Period, RawTable
from flows.project import Project

STAMP = "event_timestamp"
REACH = timedelta(days=3)  # how far back features are looked for that a killed run left out


def build_features(project: Project, period: Period) -> dict[str, pl.DataFrame]:
    """Compute every feature table's ticks in (since, until] and put them into the lake."""
    frames = {}
    for table in project.problem.feature_tables:
        frames[table.name] = compute_features(project, table, period)
        project.lake.replace(table.name, frames[table.name], period, STAMP, closed="right")
    return frames


def compute_features(project: Project, table: FeatureTable, period: Period) -> pl.DataFrame:
    """Compute one feature table's ticks in (since, until] from what the lake holds."""
    schemas = {raw.name: raw for raw in project.problem.raw}
    reach = Period(period.since - table.lookback, period.until)
    raw = {name: _read_raw(project, schemas[name], reach) for name in table.reads}
    ticks = table.ticks(period)
    empty = pl.DataFrame(
        schema={
            **dict.fromkeys(table.keys, pl.String),
            STAMP: pl.Datetime("us", "UTC"),
            **table.features,
        }
    )
    computed = table.compute(raw, ticks) if ticks else empty
    return computed.select(empty.columns).sort(STAMP, *table.keys)


def find_unbuilt(project: Project, period: Period) -> Period:
    """Return the period, begun earlier if a run before it landed batches and was killed before features."""
    newest = [project.lake.latest(table.name, STAMP) for table in project.problem.feature_tables]
    built = min((at for at in newest if at is not None), default=period.since)
    return Period(max(min(built, period.since), period.since - REACH), period.until)


def materialize_period(project: Project, frames: Mapping[str, pl.DataFrame], period: Period) -> int:
    """Write the newest value of each key among the ticks in (since, until] online; return rows written."""
    return project.store.write_period(frames, period)


def _read_raw(project: Project, table: RawTable, period: Period) -> pl.DataFrame:
    frame = project.lake.read(table.name, period, by=table.known_at)
    return frame if frame.width else pl.DataFrame(schema=dict(table.schema))


@task(name="features", cache_policy=NO_CACHE)
def build(project: Project, period: Period) -> dict[str, pl.DataFrame]:
    """Compute the period's features and keep them in the lake."""
    return build_features(project, period)


@task(name="materialize", cache_policy=NO_CACHE)
def materialize(project: Project, frames: Mapping[str, pl.DataFrame], period: Period) -> int:
    """Write the period's newest features to the online store."""
    return materialize_period(project, frames, period)
