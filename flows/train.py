"""Training: one snapshot through one feature service to one registered model version."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Problem
from feature_repo.errors import NotEnoughData
from feature_repo.fingerprint import describe_inputs, fingerprint_all
from flows.dataset_inputs import log_inputs
from flows.lineage import read_model, telling_training
from flows.live_definitions import FINGERPRINTS
from flows.package import write_package
from flows.policy.window import EXPANDING, Tried
from flows.project import Project
from flows.summary import publish_table
from flows.training_set import TrainingSet, build_training_set, split_by_time, to_matrix
from flows.training_window import Fitted, fit_by_evidence, tabulate

HOLDOUT = timedelta(days=14)  # the newest labels: what the gate judges on, never fitted on
MIN_ROWS = 5_000
IMPORTANCE_ROWS = 3_000


@dataclass(frozen=True)
class Candidate:
    """A registered version that serves nothing yet, and the rows that it may be judged on.

    fitted   the rows that it learned from: those of the window that was chosen
    windows  what was tried, and what came of it; `window` names the one chosen, and `why` says why
    """

    version: int
    run_id: str
    training: TrainingSet
    fitted: pl.DataFrame
    holdout: pl.DataFrame
    metrics: Mapping[str, float]
    windows: tuple[Tried, ...] = ()
    window: str = EXPANDING.name
    why: tuple[str, ...] = ()


def train_candidate(project: Project, until: datetime, reason: str) -> Candidate:
    """Fit on the labels known before `until` but the newest HOLDOUT; log, package and register.

    Which of them is decided by evidence: the window of the past that served best.

    Raises NotEnoughData if there are under MIN_ROWS rows to fit on, or if one of the inputs has no value.
    """
    training = build_training_set(project, until)
    with telling_training(project, training.snapshot, training.sha256, reason) as run:
        candidate = _train(project, training, reason)
        run.outputs.append(read_model(project, candidate.version))
        run.facts["mlflowRunId"] = candidate.run_id
    return candidate


def _train(project: Project, training: TrainingSet, reason: str) -> Candidate:
    problem, until = project.problem, training.until
    fitted, holdout = split_by_time(training.rows, problem, HOLDOUT, until)
    if len(fitted) < MIN_ROWS or not len(holdout):
        raise NotEnoughData(
            f"training of {problem.name} until {until:%Y-%m-%d}",
            got=f"{len(fitted)} rows to fit and {len(holdout)} newer ones",
            expected=f"{MIN_ROWS} or more to fit, and {HOLDOUT.days} days of newer ones",
            next_step="Backfill a longer period.",
        )
    result = fit_by_evidence(project.build_estimator, fitted, problem)
    holdout = holdout.with_columns(score=pl.Series(predict(result.estimator, holdout, problem)))
    importance = measure_importance(result.estimator, holdout, problem)
    metrics = measure(holdout[problem.target].to_numpy(), holdout["score"].to_numpy())
    slices = measure_slices(holdout, problem)
    return _log(project, result, training, holdout, importance, metrics, slices, reason)


def fit(estimator: Any, rows: pl.DataFrame, problem: Problem) -> Any:
    """Fit an estimator on labelled rows and return it."""
    return estimator.fit(to_matrix(rows, problem), rows[problem.target].to_numpy())


def predict(estimator: Any, rows: pl.DataFrame, problem: Problem) -> Any:
    """Return the probability of the target for each row, shape (n,)."""
    return estimator.predict_proba(to_matrix(rows, problem))[:, 1]


def measure(outcomes: Any, scores: Any) -> dict[str, float]:
    """Return AUC, log loss, Brier score and Brier skill over the rows' own base rate."""
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    rate = float(np.mean(outcomes))
    both = 0 < rate < 1
    brier = float(brier_score_loss(outcomes, scores))
    return {
        "auc": float(roc_auc_score(outcomes, scores)) if both else float("nan"),
        "log_loss": float(log_loss(outcomes, scores, labels=[0, 1])),
        "brier": brier,
        "brier_skill": 1 - brier / (rate * (1 - rate)) if both else float("nan"),
        "base_rate": rate,
        "rows": float(len(outcomes)),
    }


def measure_slices(rows: pl.DataFrame, problem: Problem) -> pl.DataFrame:
    """Return the metrics of each slice with 100 rows or more, largest first."""
    found = []
    for column in problem.slices:
        for (value,), part in rows.group_by(column):
            if len(part) >= 100:
                scores = measure(part[problem.target].to_numpy(), part["score"].to_numpy())
                found.append({"slice": column, "value": str(value), **scores})
    return pl.DataFrame(found).sort("rows", descending=True) if found else pl.DataFrame()


def measure_importance(estimator: Any, rows: pl.DataFrame, problem: Problem) -> dict[str, float]:
    """Return each feature's permutation importance: the AUC that shuffling it costs, at least 0.

    Source: Breiman, Random Forests, 2001.
    """
    from sklearn.inspection import permutation_importance

    sample = rows.gather_every(max(1, len(rows) // IMPORTANCE_ROWS))
    result = permutation_importance(
        estimator,
        to_matrix(sample, problem),
        sample[problem.target].to_numpy(),
        scoring="roc_auc",
        n_repeats=1,  # as many rows again tell more than the same ones twice
        random_state=0,
    )
    means = np.maximum(result.importances_mean, 0.0)
    return dict(zip(problem.feature_names, means.tolist(), strict=True))


def _log(
    project: Project,
    result: Fitted,
    training: TrainingSet,
    holdout: pl.DataFrame,
    importance: dict[str, float],
    metrics: dict[str, float],
    slices: pl.DataFrame,
    reason: str,
) -> Candidate:
    import mlflow

    from flows.code_version import read_code_version
    from flows.plots import plot_calibration, plot_importance

    problem, estimator, fitted = project.problem, result.estimator, result.learned
    mlflow.set_tracking_uri(project.settings.mlflow_url)
    mlflow.set_experiment(problem.name)
    tags = {
        "perennial.snapshot": training.snapshot.id,
        "perennial.training_set_sha256": training.sha256,
        "perennial.until": training.until.isoformat(),
        "perennial.feature_service": problem.feature_service,
        FINGERPRINTS: json.dumps(fingerprint_all(describe_inputs(problem))),
        "perennial.code": read_code_version(),
        "perennial.reason": reason,
    }
    with mlflow.start_run(run_name=f"until {training.until:%Y-%m-%d}", tags=tags) as run:
        mlflow.log_params(
            {**_params(result, training, holdout), **_settings(project.build_estimator(problem))}
        )
        mlflow.log_metrics(metrics)
        mlflow.log_dict(dict(training.snapshot.versions), "table_versions.json")
        mlflow.log_dict(training.excluded, "excluded_rows.json")
        mlflow.log_text(slices.write_csv(), "slices.csv")
        mlflow.log_text(
            pl.DataFrame(tabulate(result.tried, result.choice.window.name)).write_csv(), "windows.csv"
        )
        mlflow.log_dict(importance, "importance.json")
        mlflow.log_figure(plot_calibration(holdout, problem.target), "calibration.png")
        mlflow.log_figure(plot_importance(importance), "importance.png")
        log_inputs(project, training, fitted, holdout)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "model"
            write_package(package, problem, estimator, training, fitted, holdout, importance, metrics)
            version = project.registry.register(package, run.info.run_id, tags)
    candidate = Candidate(int(version), run.info.run_id, training, fitted, holdout, metrics)
    choice = result.choice
    return replace(candidate, windows=result.tried, window=choice.window.name, why=choice.reasons)


def _params(result: Fitted, training: TrainingSet, holdout: pl.DataFrame) -> dict[str, Any]:
    return {
        "rows_fitted": len(result.learned),
        "window": result.choice.window.name,
        "windows_tried": "; ".join(one.name for one in result.tried if one.difference is not None) or "none",
        "rows_held_out": len(holdout),
        "holdout_days": HOLDOUT.days,
        "rows_excluded": sum(training.excluded.values()),
    }


def _settings(estimator: Any) -> dict[str, Any]:
    """Return the kind of an estimator that is not fitted yet, and its settings."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    settings = {k: v for k, v in last.get_params().items() if isinstance(v, bool | int | float | str)}
    return {"estimator": type(last).__name__, **settings}


@task(name="train", cache_policy=NO_CACHE)
def train(project: Project, until: datetime, reason: str) -> Candidate:
    """Train, log and register a candidate; show which windows of the past were tried."""
    candidate = train_candidate(project, until, reason)
    rows = tabulate(candidate.windows, candidate.window)
    publish_table("training-window", rows, f"Learned from: {'; '.join(candidate.why)}"[:1000])
    return candidate
