"""What travels with a model version: the model as data, its contract, rule, self-test and reference.

All of it is written into one folder, registered as one model version: a version is whole or it is not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from feature_repo.contract import Problem
from feature_repo.fingerprint import describe_inputs
from feature_repo.lake import content_hash
from flows.training_set import TrainingSet, to_matrix
from services.package import SCIKIT_LEARN

SELF_TEST_ROWS = 100
COMPARED_ROWS = 20_000  # of those fitted, on which compiled trees must give what scikit-learn gives
REFERENCE_ROWS = 20_000
REQUIREMENTS = ["scikit-learn", "skops", "pandas"]


def write_package(
    folder: Path,
    problem: Problem,
    estimator: Any,
    training: TrainingSet,
    fitted: pl.DataFrame,
    holdout: pl.DataFrame,
    importance: Mapping[str, float],
    metrics: Mapping[str, float],
) -> None:
    """Write the folder of one model version.

    fitted    the rows that the estimator learned from: ranges, categories and rates come from them
    holdout   newer rows, not learned from, with a `score` column: the drift reference
    """
    import mlflow

    from services.package import TRUSTED_TYPES

    mlflow.sklearn.save_model(
        estimator,
        str(folder),
        serialization_format="skops",
        skops_trusted_types=list(TRUSTED_TYPES),
        pip_requirements=REQUIREMENTS,
        signature=mlflow.models.infer_signature(
            to_matrix(fitted.head(100), problem), np.array([0.5]), params=None
        ),
    )
    base_rate = _rate(fitted, problem)
    reference = _sample_reference(holdout, problem)
    origin = {"snapshot": training.snapshot.id, "training_set_sha256": training.sha256}
    contract = {
        "problem": problem.name,
        "feature_service": problem.feature_service,
        "definitions": describe_inputs(problem),
        "features": [_describe(fitted, f.name, f.kind, f.source, importance) for f in problem.features],
        "scoring": choose_scoring(estimator, fitted, problem),
        "base_rate": base_rate,
        "trained_until": fitted[problem.decided_at].max().isoformat(),  # type: ignore[union-attr]
        "metrics": dict(metrics),
        **origin,
        "until": training.until.isoformat(),
        "reference": {"rows": len(reference), "sha256": content_hash(reference), **origin},
    }
    _write(folder / "contract.json", contract)
    _write(
        folder / "rule.json",
        {"by": problem.rule_by, "rates": _rates(fitted, problem), "base_rate": base_rate},
    )
    _write(folder / "selftest.json", _self_test(estimator, holdout, problem))
    told = {f"perennial.{key}": value for key, value in origin.items()}
    reference.write_parquet(folder / "reference.parquet", metadata=told)


def choose_scoring(estimator: Any, fitted: pl.DataFrame, problem: Problem) -> dict[str, Any]:
    """Return what is to score: compiled trees if they give the same on the training sample."""
    from services.compiled import compile_estimator
    from services.package import TOLERANCE

    compiled = compile_estimator(estimator, problem.feature_names)
    if compiled is None:
        return {"by": SCIKIT_LEARN}
    sample = fitted.gather_every(max(1, -(-len(fitted) // COMPARED_ROWS)))
    scores = compiled.score(sample.select(problem.feature_names).to_dicts())
    worst = float(np.abs(estimator.predict_proba(to_matrix(sample, problem))[:, 1] - scores).max())
    told = {"rows_compared": len(sample), "largest_difference": worst}
    return {"by": compiled.family if worst <= TOLERANCE else SCIKIT_LEARN, **told}


def _sample_reference(holdout: pl.DataFrame, problem: Problem) -> pl.DataFrame:
    # A systematic sample keeps the season: every n-th row in time order.
    step = max(1, -(-len(holdout) // REFERENCE_ROWS))
    names = [problem.decided_at, *problem.feature_names, problem.target, "score"]
    return holdout.select(names).gather_every(step)


def _describe(
    rows: pl.DataFrame, name: str, kind: str, source: str, importance: Mapping[str, float]
) -> dict[str, Any]:
    values = rows[name].drop_nulls()
    numeric = kind == "number" and len(values) > 0
    return {
        "name": name,
        "kind": kind,
        "source": source,
        "min": float(values.min()) if numeric else None,  # type: ignore[arg-type]
        "max": float(values.max()) if numeric else None,  # type: ignore[arg-type]
        "null_share": rows[name].null_count() / max(len(rows), 1),
        "categories": sorted(values.unique().to_list()) if kind == "category" else None,
        "importance": float(importance.get(name, 0.0)),
    }


def _rates(rows: pl.DataFrame, problem: Problem) -> dict[str, float]:
    target = pl.col(problem.target).cast(pl.Float64).mean()
    by = rows.group_by(pl.col(problem.rule_by).cast(pl.Int64).alias("by")).agg(rate=target, n=pl.len())
    return {str(k): rate for k, rate, n in by.sort("by").iter_rows() if k is not None and n >= 30}


def _rate(rows: pl.DataFrame, problem: Problem) -> float:
    return float(rows[problem.target].cast(pl.Float64).mean())  # type: ignore[arg-type]


def _self_test(estimator: Any, holdout: pl.DataFrame, problem: Problem) -> dict[str, Any]:
    """Return rows and their scores: newer ones, and such as the service may meet and training seldom saw."""
    rows = holdout.gather_every(max(1, len(holdout) // SELF_TEST_ROWS)).head(SELF_TEST_ROWS)
    rows = rows.select(problem.feature_names)
    few = rows.head(5)
    numbers = [f.name for f in problem.features if f.kind == "number"]
    odd = (
        few.with_columns(pl.lit(None, few.schema[name]).alias(name) for name in problem.feature_names),
        few.with_columns(pl.lit(None, few.schema[name]).alias(name) for name in numbers),
        few.with_columns(pl.lit(-1e9, few.schema[name]).alias(name) for name in numbers),
        few.with_columns(pl.lit(1e9, few.schema[name]).alias(name) for name in numbers),
        few.with_columns(pl.lit("(never seen)").alias(name) for name in problem.categories),
    )
    asked = pl.concat([rows, *odd])
    scores = estimator.predict_proba(to_matrix(asked, problem))[:, 1]
    return {"rows": asked.to_dicts(), "scores": scores.tolist()}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False))
