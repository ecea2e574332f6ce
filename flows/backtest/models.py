"""The model of an instant, as training would have made it then: fitted once for all, kept by content.

What is kept of a model is its scores of every later row, not the model: no policy needs more, and scores
are data. A run that was killed goes on from what it had kept.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_repo.code_text import read_code
from feature_repo.contract import Problem
from flows.backtest.record import KNOWN_AT, Record, load_record, write_whole
from flows.train import HOLDOUT, MIN_ROWS, measure_importance, predict
from flows.training_set import split_by_time
from flows.training_window import fit_by_evidence

Build = Callable[[Problem], Any]
CHUNK = 5_000  # rows scored at once


@dataclass(frozen=True)
class Teaching:
    """How a model is made: by what estimator, with which rows held out, from how many at least."""

    build: Build
    holdout: timedelta = HOLDOUT
    min_rows: int = MIN_ROWS


@dataclass(frozen=True)
class ScoredModel:
    """A model by what it said.

    until          when it was trained: on the labels known by then, but the newest held out
    trained_until  the newest row that it learned from
    seconds        that it took to choose a window of the past and to fit
    choice         the window that it learned from
    first, scores  its scores of the record's rows from index `first` on: the held-out ones and all later
    """

    until: datetime
    trained_until: datetime
    rows: int
    seconds: float
    choice: str
    importance: Mapping[str, float]
    first: int
    scores: NDArray[np.float64]

    def read(self, index: slice) -> NDArray[np.float64]:
        """Return its scores of the record's rows from `index.start` up to `index.stop`."""
        if index.start < self.first:
            raise IndexError(f"row {index.start}: the model of {self.until} may have learned from it")
        return self.scores[index.start - self.first : index.stop - self.first]


def fit_models(
    record: Record, instants: Sequence[datetime], teaching: Teaching, jobs: int = 1
) -> dict[datetime, ScoredModel | None]:
    """Return the model of each instant, in parallel over `jobs` processes; None where rows are too few."""
    if jobs <= 1:
        return {instant: fit_model(record, instant, teaching) for instant in instants}
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), _open_worker, (record.problem, record.file, teaching, threads)
    ) as pool:
        # The longest first, so that no process ends long after the others.
        latest = sorted(instants, reverse=True)
        return dict(sorted(zip(latest, pool.map(_fit_in_worker, latest), strict=True)))


def fit_model(record: Record, until: datetime, teaching: Teaching) -> ScoredModel | None:
    """Return the model that training at the instant gives, fitted or as kept; None where rows are too few."""
    file = record.file.parent / "models" / f"{name_model(record, until, teaching)}.parquet"
    if not file.is_file():
        known = record.rows.filter(pl.col(KNOWN_AT) < until)
        fitted, held = split_by_time(known, record.problem, teaching.holdout, until)
        if len(fitted) < teaching.min_rows or (teaching.holdout and not len(held)):
            return None
        if fitted[record.problem.target].n_unique() < 2:
            return None
        _fit_and_keep(record, until, teaching, fitted, held, file)
    return _read_model(file)


def name_model(record: Record, until: datetime, teaching: Teaching) -> str:
    """Return what the model follows from, as a hash: rows, instant, what is held out, code and versions."""
    import sklearn

    estimator = teaching.build(record.problem)
    told = [
        record.sha256,
        record.problem.feature_names,
        until.isoformat(),
        str(teaching.holdout),
        repr(estimator.get_params()),
        read_code(fit_by_evidence),
        read_code(teaching.build),
        sklearn.__version__,
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]


def _fit_and_keep(
    record: Record, until: datetime, teaching: Teaching, fitted: pl.DataFrame, held: pl.DataFrame, file: Path
) -> None:
    problem, began = record.problem, time.perf_counter()
    found = fit_by_evidence(teaching.build, fitted, problem)
    estimator, learned, seconds = found.estimator, found.learned, time.perf_counter() - began
    first = record.find(until - teaching.holdout)
    scores = _score(estimator, record.rows[first:], problem)
    told = {
        "until": until.isoformat(),
        "trained_until": learned[problem.decided_at].max().isoformat(),  # type: ignore[union-attr]
        "rows": len(learned),
        "seconds": seconds,
        "choice": found.choice.window.name,
        "importance": measure_importance(estimator, held, problem) if len(held) else {},
        "first": first,
    }
    write_whole(file, pl.DataFrame({"score": scores}), {"model": json.dumps(told)})


def _score(estimator: Any, rows: pl.DataFrame, problem: Problem) -> NDArray[np.float64]:
    """Return the probability of the target for each row: as the service does, at half the time."""
    from services.compiled import compile_estimator

    compiled = compile_estimator(estimator, problem.feature_names)
    if compiled is None:
        return np.asarray(predict(estimator, rows, problem))
    parts = rows.select(problem.feature_names).iter_slices(CHUNK)
    return np.array([score for part in parts for score in compiled.score(part.to_dicts())])


def _read_model(file: Path) -> ScoredModel:
    told = json.loads(pl.read_parquet_metadata(file)["model"])
    instants = {name: datetime.fromisoformat(told[name]) for name in ("until", "trained_until")}
    return ScoredModel(**{**told, **instants}, scores=pl.read_parquet(file)["score"].to_numpy())


_WORKER: list[tuple[Record, Teaching]] = []


def _open_worker(problem: Problem, file: Path, teaching: Teaching, threads: int) -> None:
    # Before scikit-learn or Polars start their threads: all processes share the machine's.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)}
    _WORKER.append((load_record(problem, file), teaching))


def _fit_in_worker(until: datetime) -> ScoredModel | None:
    record, teaching = _WORKER[0]
    return fit_model(record, until, teaching)
