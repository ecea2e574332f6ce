"""What the gate looks at: the rivals' scores, the candidate's inputs, and their values made again."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from feature_repo.contract import Feature, Period, Problem
from feature_repo.fingerprint import REQUEST
from feature_repo.lake import Snapshot
from flows.features import compute_features
from flows.model import build_linear
from flows.policy.gate import LINEAR
from flows.policy.gate_inputs import InputColumn, Remade
from flows.policy.quality import measure_auc
from flows.project import Project
from flows.skew_values import find_newest
from flows.train import Candidate, fit, predict
from flows.training_set import read_at, read_features

LINEAR_ROWS = 50_000  # a linear model learns no more from more
MOMENTS = 10  # ticks at which values are made again, over the rows judged
ALONE_ROWS, ALONE_CLASS = 300, 30  # fewer tell nothing of an input alone
NEAR = 1e-6  # of a number: sums in another order


@dataclass(frozen=True)
class Rivals:
    """Rows that neither the candidate nor the champion was fitted on, and what others say of them."""

    rows: pl.DataFrame
    scores: Mapping[str, Any]
    champion: Mapping[str, Any] | None = None  # its contract
    best_auc: float | None = None
    met: int | None = None  # the champion's version


def score_rivals(project: Project, candidate: Candidate, folder: Path) -> Rivals:
    """Score the rows judged by the base rate, a linear model, and the champion if there is one.

    Rows whose label may still come are left out, the known ones too: what is known soonest is not like the
    rest, as a flight that lands in time.
    """
    problem = project.problem
    mature = pl.col(problem.decided_at) < candidate.training.until - problem.horizon
    rows = candidate.holdout.filter(mature)
    champion = project.registry.aliases().get("champion")
    if champion is None:
        return Rivals(rows, _score_plain(problem, candidate.fitted, rows))
    from services.package import load_package

    package = load_package(project.registry.download(champion, folder / "champion"))
    # Only rows decided after the last one that the champion was fitted on.
    learned = datetime.fromisoformat(package.contract["trained_until"])
    rows = rows.filter(pl.col(problem.decided_at) > learned)
    if not len(rows):
        return Rivals(rows, {}, package.contract, met=champion)
    inputs = tuple(Feature(f["name"], f["kind"], f["source"]) for f in package.contract["features"])
    taken = replace(problem, features=inputs, feature_service=package.contract["feature_service"])
    known = _add_lacking(project, rows, taken, candidate.training.snapshot)
    scores = predict(package.estimator, known, taken)
    auc = _measure_alone(scores, rows[problem.target].cast(pl.Float64).to_numpy())
    learned_auc = float(package.contract.get("metrics", {}).get("auc", math.nan))
    known_aucs = [one for one in (auc, learned_auc) if one is not None and math.isfinite(one)]
    best = max(known_aucs, default=None)
    plain = _score_plain(problem, candidate.fitted, rows)
    return Rivals(rows, {"champion": scores, **plain}, package.contract, best, champion)


def describe_inputs(
    problem: Problem, candidate: Candidate, package: Path, rivals: Rivals
) -> tuple[InputColumn, ...]:
    """Compare each of the candidate's inputs with what it and the champion learned from."""
    contract = json.loads((package / "contract.json").read_text())
    features = rivals.champion["features"] if rivals.champion else ()
    before = {told["name"]: told["null_share"] for told in features}
    rows = rivals.rows
    outcomes = rows[problem.target].cast(pl.Float64).to_numpy()
    columns = []
    for told in contract["features"]:
        values = rows[told["name"]]
        present = values.drop_nulls()
        strange = _share_strange(told, present) if len(present) else 0.0
        number = told["kind"] == "number"
        columns.append(
            InputColumn(
                told["name"],
                fitted_null=told["null_share"],
                held_null=values.null_count() / max(len(values), 1),
                champion_null=before.get(told["name"]),
                unseen=0.0 if number else strange,
                outside=strange if number else 0.0,
                alone=_measure_column(values, outcomes, candidate.fitted, problem, number=number),
            )
        )
    return tuple(columns)


def remake_values(project: Project, rows: pl.DataFrame, snapshot: Snapshot) -> tuple[Remade, ...]:
    """Make the inputs of some rows again from raw rows known before each was decided, and compare.

    The rows of one tick at a time: the features that were the newest then are computed from raw tables
    that end there. Whatever the training set holds that this cannot give was not known at the time.
    """
    problem, at = project.problem, project.problem.decided_at
    tables = problem.used_tables
    step = min((table.every for table in tables), default=timedelta(hours=1))
    raw = {table.name: read_at(project.lake, table.name, snapshot) for table in problem.raw}
    found: dict[str, Remade] = {name: Remade(name, 0, 0) for name in problem.feature_names}
    for moment in _pick_moments(rows, at, step):
        part = rows.filter(pl.col(at).is_between(moment, moment + step, closed="left"))
        # A request may become known when it is decided: its own rows end at the last of these.
        known = {t.name: raw[t.name].filter(pl.col(t.known_at) <= part[at].max()) for t in problem.raw}
        asked = problem.build_requests(known).join(part.select(problem.entity), on=problem.entity, how="semi")
        made = problem.add_request_features(asked).sort(at)
        for table in tables:
            reach = Period(moment - table.ttl - step, moment)
            ticks = compute_features(project, table, reach, snapshot)
            made = find_newest(made.drop(table.features, strict=False), table, ticks, at)
        for name in problem.feature_names:
            if name in made.columns:
                found[name] = _compare(found[name], part, made, problem.entity)
    return tuple(found.values())


def _score_plain(problem: Problem, fitted: pl.DataFrame, rows: pl.DataFrame) -> dict[str, Any]:
    """Return what the base rate and a linear model, both of the candidate's own rows, say."""
    base = float(fitted[problem.target].cast(pl.Float64).mean())  # type: ignore[arg-type]
    sample = fitted.gather_every(max(1, -(-len(fitted) // LINEAR_ROWS)))
    linear = fit(build_linear(problem), sample, problem)
    return {"base rate": np.full(len(rows), base), LINEAR: predict(linear, rows, problem)}


def _add_lacking(project: Project, rows: pl.DataFrame, taken: Problem, snapshot: Snapshot) -> pl.DataFrame:
    """Return the rows with the inputs of a model of another feature service that they lack."""
    lacking = set(taken.feature_names) - set(rows.columns)
    if not lacking:
        return rows
    problem, entity = project.problem, project.problem.entity
    raw = {table.name: read_at(project.lake, table.name, snapshot) for table in problem.raw}
    asked = problem.build_requests(raw).join(rows.select(entity), on=entity)
    # What the request says is computed by today's function; the rest is in the tables of the model's time.
    request = [f for f in problem.features if f.source == REQUEST]
    stored = [f for f in taken.features if f.source != REQUEST]
    older = replace(project, problem=replace(taken, features=(*request, *stored)))
    for found in (read_features(older, asked, snapshot), problem.add_request_features(asked)):
        names = [name for name in found.columns if name in lacking and name not in rows.columns]
        rows = rows.join(found.select(entity, *names), on=entity, how="left", maintain_order="left")
    return rows


def _share_strange(told: Mapping[str, Any], present: pl.Series) -> float:
    """Return the share of values that are of no known category, or outside the range of training."""
    if told["kind"] == "number":
        if told["min"] is None:
            return 0.0
        inside = present.cast(pl.Float64).is_between(told["min"], told["max"])
        return 1.0 - int(inside.sum()) / len(inside)
    return 1.0 - int(present.is_in(told["categories"]).sum()) / len(present)


def _measure_column(
    values: pl.Series, outcomes: Any, fitted: pl.DataFrame, problem: Problem, *, number: bool
) -> float | None:
    """Return the AUC of an input alone; a category counts as the rate that it had in training."""
    if number:
        scores = values.cast(pl.Float64)
    else:
        target = pl.col(problem.target).cast(pl.Float64).mean().alias("rate")
        rates = fitted.group_by(pl.col(values.name).alias("value")).agg(target)
        named = pl.DataFrame({"value": values}).join(rates, on="value", how="left", maintain_order="left")
        scores = named["rate"]
    there = (scores.is_not_null() & scores.is_not_nan()).fill_null(value=False).to_numpy()
    auc = _measure_alone(scores.to_numpy()[there], outcomes[there])
    return None if auc is None else max(auc, 1 - auc)


def _measure_alone(scores: Any, outcomes: Any) -> float | None:
    ones = int(outcomes.sum())
    if len(outcomes) < ALONE_ROWS or min(ones, len(outcomes) - ones) < ALONE_CLASS:
        return None
    return measure_auc(scores, outcomes).value


def _pick_moments(rows: pl.DataFrame, at: str, step: timedelta) -> list[datetime]:
    """Return ticks spread over the rows, by the busier half of them."""
    counted = rows.group_by(pl.col(at).dt.truncate(step).alias("tick")).len()
    busy = counted.filter(pl.col("len") >= pl.col("len").median()).sort("tick")
    picked = busy.gather_every(max(1, -(-len(busy) // MOMENTS)))["tick"]
    return list(picked)


def _compare(sofar: Remade, part: pl.DataFrame, made: pl.DataFrame, entity: str) -> Remade:
    """Add the comparison of one input's values in some rows."""
    name = sofar.name
    both = part.select(entity, told=name).join(made.select(entity, made=name), on=entity)
    told, again = pl.col("told"), pl.col("made")
    if part.schema[name].is_numeric():
        both = both.with_columns(told.cast(pl.Float64).fill_nan(None), again.cast(pl.Float64).fill_nan(None))
        near = (told - again).abs() <= NEAR * pl.max_horizontal(pl.lit(1.0), told.abs())
    else:
        near = told == again
    same = near.fill_null(value=False) | (told.is_null() & again.is_null())
    wrong = both.filter(~same)
    example = sofar.example
    if len(wrong) and not example:
        row = wrong.row(0, named=True)
        example = f"{row[entity]}: {row['told']}, known then {row['made']}"
    return Remade(name, sofar.compared + len(both), sofar.differ + len(wrong), example)
