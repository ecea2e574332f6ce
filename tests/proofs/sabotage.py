"""Sabotaged retrains on the real flights: each is rejected for what is wrong with it, an honest one passes.

The way of a retrain from its training set on: a lake with the year, rows that the feature store joined,
training, an MLflow registry, the gate with its clean process. Sabotage enters where a broken job would
put it: into the training set. The champion learned from January to mid March; the retrain is of mid
December.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl

from feature_repo.lake import content_hash
from feature_repo.problem import PROBLEM
from feature_repo.settings import Settings
from flows.gate import judge_candidate
from flows.project import Project, open_project
from flows.train import Candidate, train_candidate
from flows.training_set import TrainingSet
from tests.bench.bench_features import YEAR
from tests.bench.bench_monitoring import figure, show_table
from tests.bench.serving.material import prepare

CHAMPION_UNTIL = datetime(2013, 4, 1, 4, tzinfo=UTC)
UNTIL = datetime(2013, 12, 15, 5, tzinfo=UTC)
HELD = timedelta(days=14)
SEED = 0
NULLED = PROBLEM.feature_names[1::2]  # half of the columns
Spoil = Callable[[TrainingSet], TrainingSet]


@dataclass(frozen=True)
class Case:
    """A retrain, what is done to its rows, and the check that must reject it, in what words; "" for none."""

    name: str
    spoil: Spoil
    check: str = ""
    words: str = ""


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        project = open_world(Path(folder))
        project.registry.set_alias("champion", train(project, read_known(project, CHAMPION_UNTIL)).version)
        whole = read_known(project, UNTIL)
        cases = [Case("an honest retrain", lambda training: training), *list_sabotage(project)]
        for case in cases:
            verdict = judge_candidate(project, train(project, case.spoil(whole)))
            failed = [f"{c.name}: {c.got}" for c in verdict.checks if not c.passed]
            right = [told for told in failed if told.startswith(case.check) and case.words in told]
            ok = bool(right) if case.check else verdict.passed
            rows.append(
                (case.name, "passed" if verdict.passed else "rejected", (right or failed or [""])[0][:90])
            )
            name = f"sabotage: {case.name} is {'rejected by the right check' if case.check else 'passed'}"
            bar = f"{case.check}, {case.words}" if case.check else "passed"
            yield figure(name, (right or failed or ["passed"])[0], bar, ok, failed=failed)
    show_table(("retrain", "gate", "first reason"), rows)


def list_sabotage(project: Project) -> list[Case]:
    """Return the sabotaged retrains."""
    delays = project.lake.read("arrivals").select(PROBLEM.entity, delay="arr_delay")
    leak = "leak: values as known at the decision"
    return [
        Case("labels shuffled", shuffle_labels, "better than the base rate"),
        Case("labels turned round", turn_labels, "ranks the right way up", "ranks upside down"),
        Case("a feature made from the label", lambda t: leak_label(t, 0.5), leak, LEAKED),
        Case("a feature made from the label, faintly", lambda t: leak_label(t, 4.0), leak, LEAKED),
        Case("the flight's own delay, with noise", lambda t: leak_delay(t, delays), leak, LEAKED),
        Case("two months' window in December", keep_two_months, "better than the"),
        Case("half of the columns null", null_half, "input contract", f"{len(NULLED)} of"),
        Case("half of the columns null of late", null_half_of_late, "input contract", f"{len(NULLED)} of"),
    ]


def train(project: Project, training: TrainingSet) -> Candidate:
    """Train on a training set that is given."""
    with mock.patch("flows.train.build_training_set", return_value=training):
        return train_candidate(project, training.until, "proof")


def read_known(project: Project, until: datetime) -> TrainingSet:
    """Return what was known at an instant; of the rows to learn from every tenth: enough, and quicker."""
    arrivals = project.lake.read("arrivals").filter(pl.col("known_at") < until, pl.col("late").is_not_null())
    rows = prepare().read_rows().join(arrivals.select(PROBLEM.entity), on=PROBLEM.entity, how="semi")
    learned = pl.col(PROBLEM.decided_at) < until - HELD
    kept = pl.concat([rows.filter(learned).gather_every(10), rows.filter(~learned)]).sort(PROBLEM.decided_at)
    tables = [table.name for table in (*PROBLEM.raw, *PROBLEM.feature_tables)]
    return TrainingSet(kept, project.lake.snapshot(tables), until, {}, content_hash(kept))


def open_world(folder: Path) -> Project:
    """Return the bundled problem on a home that holds the year, with a registry of its own."""
    from mlflow import MlflowClient

    material, home = prepare(), folder / "home"
    for name in ("lake", "feast"):
        shutil.copytree(material.home / name, home / name)
    server = f"sqlite:///{folder / 'mlflow.db'}"
    project = open_project(Settings(home=home, mlflow_server=server, monitoring="off"))
    for table in PROBLEM.raw:
        known = project.fetch(table.name, YEAR).frame
        project.lake.replace(table.name, known, YEAR, by=table.known_at)
    MlflowClient(server).create_experiment(PROBLEM.name, artifact_location=(folder / "runs").as_uri())
    return project


LEAKED = "pair_delay_3h_v2"
assert LEAKED in PROBLEM.feature_names  # what no model takes leaks nothing


def shuffle_labels(training: TrainingSet) -> TrainingSet:
    """Labels went to the wrong rows, in what is learned from."""
    late = training.rows.filter(_learned())[PROBLEM.target].shuffle(seed=SEED)
    return _relabel(training, late)


def turn_labels(training: TrainingSet) -> TrainingSet:
    """Somebody read 1 as "in time", in what is learned from."""
    return _relabel(training, 1 - training.rows.filter(_learned())[PROBLEM.target])


def leak_label(training: TrainingSet, noise: float) -> TrainingSet:
    """A feature holds the label itself, under noise."""
    rows = training.rows
    drawn = np.random.default_rng(SEED).normal(0, noise, len(rows))
    return _with(training, rows.with_columns((pl.col(PROBLEM.target) + pl.Series(drawn)).alias(LEAKED)))


def leak_delay(training: TrainingSet, delays: pl.DataFrame) -> TrainingSet:
    """A feature holds the delay with which the flight itself arrived, under half an hour of noise."""
    rows = training.rows.join(delays, on=PROBLEM.entity, how="left", maintain_order="left")
    noise = pl.Series(np.random.default_rng(SEED).normal(0, 30, len(rows)))
    return _with(training, rows.with_columns((pl.col("delay") + noise).alias(LEAKED)).drop("delay"))


def keep_two_months(training: TrainingSet) -> TrainingSet:
    """Only the latest two months of what is known are learned from."""
    late = pl.col(PROBLEM.decided_at) >= UNTIL - HELD - timedelta(days=61)
    return _with(training, training.rows.filter(late))


def null_half(training: TrainingSet) -> TrainingSet:
    """A join went wrong: every second column is empty but in one row of twenty, old and new alike."""
    kinds, kept = training.rows.schema, pl.int_range(pl.len()) % 20 == 0
    return _with(
        training,
        training.rows.with_columns(
            pl.when(kept).then(pl.col(name)).otherwise(pl.lit(None, kinds[name])).alias(name)
            for name in NULLED
        ),
    )


def null_half_of_late(training: TrainingSet) -> TrainingSet:
    """So it is in the newest rows alone, those that are judged."""
    kinds = training.rows.schema
    gone = (
        pl.when(_learned()).then(pl.col(name)).otherwise(pl.lit(None, kinds[name])).alias(name)
        for name in NULLED
    )
    return _with(training, training.rows.with_columns(gone))


def _learned() -> pl.Expr:
    return pl.col(PROBLEM.decided_at) < UNTIL - HELD


def _relabel(training: TrainingSet, late: pl.Series) -> TrainingSet:
    learned, held = training.rows.filter(_learned()), training.rows.filter(~_learned())
    return _with(training, pl.concat([learned.with_columns(late.alias(PROBLEM.target)), held]))


def _with(training: TrainingSet, rows: pl.DataFrame) -> TrainingSet:
    return replace(training, rows=rows)
