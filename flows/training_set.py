"""The training set: one snapshot of the lake through one feature service, as of one instant."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from feature_repo.contract import Problem
from feature_repo.errors import NotEnoughData
from feature_repo.lake import Lake, Snapshot, content_hash
from flows.project import Project

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows, oldest first: entity, `decided_at`, features, target.

    excluded   how many rows have an outcome but no target, by status (cancelled, diverted)
    sha256     hash of the rows: the same snapshot and instant give the same hash
    """

    rows: pl.DataFrame
    snapshot: Snapshot
    until: datetime
    excluded: dict[str, int]
    sha256: str


def build_training_set(project: Project, until: datetime, snapshot: Snapshot | None = None) -> TrainingSet:
    """Return every labelled row whose outcome was known before `until`.

    Reads the given snapshot's table versions, or takes a new snapshot. Raises NotEnoughData if empty.
    """
    problem, lake = project.problem, project.lake
    tables = [t.name for t in problem.raw] + [t.name for t in problem.feature_tables]
    snapshot = snapshot or lake.snapshot(tables)
    raw = {t.name: read_at(lake, t.name, snapshot) for t in problem.raw}
    if not all(len(frame) for frame in raw.values()):
        empty = [name for name, frame in raw.items() if not len(frame)]
        raise NotEnoughData(
            f"training set of {problem.name}",
            got=f"no rows in {', '.join(empty)}",
            expected="rows in every raw table",
            next_step="Run backfill first.",
        )
    outcomes = problem.build_outcomes(raw).filter(pl.col("known_at") < until)
    asked = problem.build_requests(raw).join(outcomes, on=problem.entity)
    counts = asked.filter(pl.col(problem.target).is_null()).group_by("status").len().sort("status")
    labelled = asked.filter(pl.col(problem.target).is_not_null()).drop("status", "known_at")
    rows = read_features(project, labelled, snapshot)
    return TrainingSet(rows, snapshot, until, dict(counts.iter_rows()), content_hash(rows))


def read_features(project: Project, requests: pl.DataFrame, snapshot: Snapshot) -> pl.DataFrame:
    """Return requests with their features as known at each one's `decided_at`, oldest first."""
    from feature_repo.store import FeatureStore

    _ = project.store  # makes sure that the definitions are applied
    store = FeatureStore(project.settings.home, project.problem, snapshot)
    problem = project.problem
    carried = [c for c in (problem.entity, problem.decided_at, problem.target) if c in requests.columns]
    frame = store.read_historical(requests)
    names = [*carried, *(n for n in problem.feature_names if n not in carried)]
    return frame.select(names).sort(problem.decided_at, problem.entity)


def read_at(lake: Lake, table: str, snapshot: Snapshot) -> pl.DataFrame:
    """Return a table as it was in the snapshot."""
    version = snapshot.versions.get(table, -1)
    return lake.read(table, version=version) if version >= 0 else pl.DataFrame()


def split_by_time(
    rows: pl.DataFrame, problem: Problem, holdout: timedelta, until: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (older, newest): rows decided before and within `holdout` of `until`."""
    cut = until - holdout
    newest = pl.col(problem.decided_at) >= cut
    return rows.filter(~newest), rows.filter(newest)


def to_matrix(rows: pl.DataFrame, problem: Problem) -> "pd.DataFrame":
    """Return the model's input: the problem's features in order, in pandas."""
    numbers = [f.name for f in problem.features if f.kind == "number"]
    frame = rows.select(problem.feature_names).with_columns(pl.col(numbers).cast(pl.Float64)).to_pandas()
    return frame.astype(dict.fromkeys(problem.categories, object))
