"""The monitor over one day of 10,000 predictions of 25 columns, beside Evidently's own report of that day.

All that a user pays for such a day: it is read from a journal file as the service writes it, one JSON text a
row, judged with its labels against a reference of 14 days, its report drawn and written, and its verdict
recorded in a lake.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from feature_repo.contract import Period, Problem, RawTable
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM
from flows.judgement import monitor_window
from flows.label import label_period
from services.journal import Journal, Prediction, format_instant
from tests.bench.bench_monitoring import MEASURED, Evidently, World, build_world, figure

ROWS, REFERENCE, DAYS, MAX_SECONDS = 10_000, 10_000, 14, 10.0
START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = Period(START, START + timedelta(days=1))
LANDED = {
    "flight_id": pl.String,
    "late": pl.Float64,
    "status": pl.String,
    "known_at": pl.Datetime("us", "UTC"),
}


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figure."""
    world = build_world(*MEASURED)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, first, report, rows = _run_ours(world, Path(folder))
        theirs = _run_theirs(world)
    name = f"monitor: seconds over a day of {ROWS:,} predictions and {len(world.columns)} columns"
    yield figure(
        name,
        round(ours, 2),
        f"<= {MAX_SECONDS:g}",
        ours <= MAX_SECONDS and rows == ROWS,
        first_run_with_evidently_imported=round(first, 2),
        without_its_report=round(ours - report, 2),
        evidently_default_report_of_the_same_rows=round(theirs, 2),
        ratio_to_evidently=round(ours / theirs, 2),
        rows_judged=rows,
    )


def _run_ours(world: World, folder: Path) -> tuple[float, float, float, int]:
    problem = replace(
        PROBLEM,
        start=START,
        raw=(RawTable("landings", LANDED, key=("flight_id",)),),
        build_outcomes=lambda raw: raw["landings"],
    )
    package, lake = _write_package(world, folder / "package"), Lake(folder / "lake")
    seconds = []
    with Journal(folder / "journal.db") as journal:
        _write_answers(world, lake, journal, problem)
        # The first run pays for Evidently's import, which a flow's process pays for too, but once.
        for number in range(2):
            began = time.perf_counter()
            verdict = monitor_window(
                lake, journal, problem, package, DAY, reports=folder / f"reports{number}", version="1"
            )
            seconds.append(time.perf_counter() - began)
    return seconds[1], seconds[0], verdict.report_seconds, verdict.rows


def _write_package(world: World, folder: Path) -> Path:
    folder.mkdir()
    features = [{"name": c.name, "kind": c.kind, "importance": c.importance} for c in world.columns]
    features += [{"name": name, "kind": "number", "importance": 0.0} for name in sorted(PROBLEM.calendar)]
    contract = {"problem": "day", "features": features, "trained_until": START.isoformat()}
    (folder / "contract.json").write_text(json.dumps(contract))
    held = {name: values[:REFERENCE] for name, values in world.reference.items()}
    frame = pl.DataFrame({n: v.tolist() for n, v in held.items()}).fill_nan(None)
    # As a package holds them: the two weeks before the model served, in the order of time.
    decided = [START - timedelta(days=DAYS) * (1 - i / REFERENCE) for i in range(REFERENCE)]
    frame.with_columns(pl.Series(PROBLEM.decided_at, decided)).write_parquet(folder / "reference.parquet")
    return folder


def _write_answers(world: World, lake: Lake, journal: Journal, problem: Problem) -> None:
    picked = np.random.default_rng(1).integers(0, world.size, ROWS)
    frame = {name: values[picked].tolist() for name, values in world.pool.items()}
    watched = [*(c.name for c in world.columns), *sorted(PROBLEM.calendar)]
    asked = [START + i * (timedelta(days=1) / ROWS) for i in range(ROWS)]
    known = [None if value != value else value for value in frame["late"]]
    landed = pl.DataFrame(
        {
            "flight_id": [f"f{i}" for i in range(ROWS)],
            "late": known,
            "status": ["cancelled" if value is None else "arrived" for value in known],
            "known_at": [at + timedelta(hours=5) for at in asked],
        },
        schema=LANDED,
    )
    reach = Period(START, START + timedelta(days=3))
    lake.replace("landings", landed, reach, by="known_at")
    values = ({n: None if (v := frame[n][i]) != v else v for n in watched} for i in range(ROWS))
    journal.append(
        [
            Prediction(
                prediction_id=f"p{i}",
                entity=f"f{i}",
                requested_at=format_instant(asked[i]),
                received_at=format_instant(asked[i]),
                model_version="1",
                served_by="champion",
                reason="",
                score=frame["score"][i],
                features=json.dumps(row),
                flags="{}",
                request="{}",
            )
            for i, row in enumerate(values)
        ]
    )
    label_period(lake, journal, problem, reach)


def _run_theirs(world: World) -> float:
    rival = Evidently(world.reference, world.columns, REFERENCE)
    picked = np.random.default_rng(1).integers(0, world.size, ROWS)
    day = {name: values[picked] for name, values in world.pool.items()}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _, report = rival.run_preset(day)
        report.save_html(f"{folder}/report.html")
        return time.perf_counter() - began
