"""Bad release: a version that learnt the opposite, made champion by hand, past the gate."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.drill.incident import Diary
from services.routing import TERMS, Terms

PER_DAY = 300
BAKE = 14.0  # days that the version is watched
LONGEST = 11  # days until it must be undone

if TYPE_CHECKING:
    from flows.drill.stage import Stage
    from flows.project import Project


def inject(stage: "Stage", diary: Diary) -> None:
    """Register a version trained on inverted outcomes and move the alias as a person does in MLflow's UI."""
    before, begun = stage.champion, stage.now
    stage.tell("training a version on inverted outcomes")
    worse = register_worse(stage.project)
    # A week's watch would end as soon as its test may speak: labels take two days, the test wants five.
    stage.project.registry.tag(worse, TERMS, Terms(bake=BAKE).to_text())
    stage.project.registry.set_alias("champion", worse)
    diary.inject(f"version {worse}, trained on inverted outcomes, is made champion in MLflow", stage.now)
    diary.require(stage.await_champion(worse) is not None, f"not every worker took up version {worse}")
    while stage.champion == worse and (stage.now - begun).days < LONGEST:
        stage.play_day(per_day=PER_DAY)
        stage.defences.watch_release(stage.project, stage.now)
    why = _tell_watch(stage.project, worse)
    if not diary.require(stage.champion != worse, f"version {worse} was not undone in {LONGEST} days: {why}"):
        return
    diary.notice("release watch", why, stage.now)
    diary.answer("release watch", f"moved champion back from version {worse} to version {before}", stage.now)
    seconds = stage.await_champion(before)
    back = stage.champion == before and seconds is not None
    if diary.require(back, f"version {stage.champion} serves, version {before} does not in every worker"):
        told = f"every worker serves version {before} again, {seconds:.2f} s after the alias moved"
        diary.recover("service", told, stage.now)


def _tell_watch(project: "Project", version: int) -> str:
    """Return what the watch over a version came to. The keeper beside the runner may have looked first."""
    found = [one for one in project.releases.rollouts() if one.version == version]
    return f"{found[-1].state}: {'; '.join(found[-1].reasons)}" if found else "nobody watches it"


def register_worse(project: "Project") -> int:
    """Register a version that is whole but for its outcomes, which were inverted; return its number."""
    import mlflow
    import polars as pl

    from flows.ingest import landed_until
    from flows.package import write_package
    from flows.train import HOLDOUT, fit, measure, measure_importance, predict
    from flows.training_set import build_training_set, split_by_time

    problem, until = project.problem, landed_until(project)
    training = build_training_set(project, until)
    fitted, holdout = split_by_time(training.rows, problem, HOLDOUT, until)
    fitted = fitted.with_columns((1 - pl.col(problem.target)).alias(problem.target))
    estimator = fit(project.build_estimator(problem), fitted, problem)
    holdout = holdout.with_columns(score=pl.Series(predict(estimator, holdout, problem)))
    metrics = measure(holdout[problem.target].to_numpy(), holdout["score"].to_numpy())
    importance = measure_importance(estimator, holdout, problem)
    mlflow.set_tracking_uri(project.settings.mlflow_url)
    mlflow.set_experiment(problem.name)
    with (
        mlflow.start_run(run_name="drill: inverted outcomes") as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        mlflow.log_metrics(metrics)
        package = Path(folder) / "model"
        write_package(package, problem, estimator, training, fitted, holdout, importance, metrics)
        tags = {"perennial.reason": "the drill's bad release"}
        return project.registry.register(package, run.info.run_id, tags)
