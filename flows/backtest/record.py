"""The past as it is known now: every labelled row with its features as of its own instant, read once."""

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_repo.contract import Problem
from feature_repo.errors import NotEnoughData
from feature_repo.fingerprint import describe_inputs, fingerprint_all
from flows.ingest import landed_until
from flows.project import Project
from flows.training_set import build_training_set, read_at

KNOWN_AT = "known_at"


@dataclass(frozen=True)
class Record:
    """Labelled rows, oldest first: entity, `decided_at`, `known_at` of the outcome, target, features.

    sha256   hash of the training set that they are
    file     where the rows are kept
    """

    problem: Problem
    rows: pl.DataFrame
    sha256: str
    file: Path

    @cached_property
    def decided(self) -> NDArray[np.int64]:
        """When each row was decided, in microseconds, ascending."""
        return self.rows[self.problem.decided_at].dt.epoch("us").to_numpy()

    @cached_property
    def outcomes(self) -> NDArray[np.float64]:
        """Each row's outcome, 0 or 1."""
        return self.rows[self.problem.target].cast(pl.Float64).to_numpy()

    @cached_property
    def local_days(self) -> pl.Series:
        """The local date on which each row was decided."""
        return self.rows[self.problem.decided_at].dt.convert_time_zone(self.problem.time_zone).dt.date()

    def find(self, instant: datetime) -> int:
        """Return the index of the first row decided at the instant or later."""
        return int(np.searchsorted(self.decided, to_microseconds(instant), side="left"))


def to_microseconds(instant: datetime) -> int:
    """Return an aware instant as whole microseconds since 1970."""
    return int(pl.Series([instant]).dt.epoch("us").item())


def read_record(project: Project) -> Record:
    """Return all that has landed, as the training set of now; what was read once is kept under the home.

    Raises NotEnoughData on a home without data.
    """
    problem, lake = project.problem, project.lake
    until = landed_until(project)
    tables = [t.name for t in problem.raw] + [t.name for t in problem.feature_tables]
    snapshot = lake.current(tables)
    asked = [snapshot.id, until.isoformat(), fingerprint_all(describe_inputs(problem)), problem.feature_names]
    if lacking := [t.name for t in problem.raw if snapshot.versions[t.name] < 0]:
        raise _lack_data(project, f"backtest of {problem.name}", f"nothing of {', '.join(lacking)}")
    name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    file = project.settings.home / "backtest" / f"rows-{name}.parquet"
    if not file.is_file():
        training = build_training_set(project, until, snapshot)
        outcomes = problem.build_outcomes({t.name: read_at(lake, t.name, snapshot) for t in problem.raw})
        known = outcomes.select(problem.entity, KNOWN_AT)
        rows = training.rows.join(known, on=problem.entity, how="left", maintain_order="left")
        write_whole(file, rows, {"sha256": training.sha256})
    return load_record(problem, file)


def load_record(problem: Problem, file: Path) -> Record:
    """Return the rows that were kept in a file."""
    return Record(problem, pl.read_parquet(file), pl.read_parquet_metadata(file)["sha256"], file)


def write_whole(file: Path, frame: pl.DataFrame, told: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all, whenever the process is killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    frame.write_parquet(part, metadata={name: str(value) for name, value in told.items()})
    part.replace(file)


def require_period(project: Project, record: Record, since: datetime, until: datetime) -> None:
    """Raise NotEnoughData unless there are rows before the period, to learn from, and in it."""
    before, end = record.find(since), record.find(until)
    if not 0 < before < end:
        told = f"{before} labelled rows before it and {end - before} in it"
        what = f"backtest of {project.problem.name} from {since:%Y-%m-%d} to {until:%Y-%m-%d}"
        raise _lack_data(project, what, told)


def _lack_data(project: Project, subject: str, got: str) -> NotEnoughData:
    first, last = (f"{project.local_day(i):%Y-%m-%d}" for i in (project.problem.start, project.problem.end))
    return NotEnoughData(
        subject,
        got=got,
        expected="rows to learn from before the period, and rows to judge by in it",
        next_step=f"Take the past in first: `perennial backfill {first} {last}`, or name another period.",
    )
