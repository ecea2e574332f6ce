"""One window of answers, judged against what the champion was built on and by the labels it has."""

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PanicException

from feature_repo.contract import Period, Problem
from feature_repo.lake import Lake
from flows.drift_reports import report_window
from flows.label import Predictions, read_labels
from flows.policy.drift import ColumnDrift, DriftColumn, DriftVerdict, judge_drift
from flows.policy.estimate import Estimate, check_estimate, count_missed, estimate_auc, fit_calibration
from flows.policy.quality import QualityVerdict, judge_quality
from flows.policy.signals import (
    judge_coverage,
    judge_estimate,
    judge_flagged,
    judge_inputs,
    judge_predictions,
    judge_skew,
)
from flows.policy.trigger import TriggerPolicy, name_breaches
from flows.served import (
    Champion,
    list_calendar,
    list_columns,
    parse_features,
    pick_served,
    read_champion,
    share_flagged,
    to_arrays,
)
from flows.skew import TABLE as SKEW
from flows.verdicts import WindowVerdict, read_estimates, record_verdict

log = logging.getLogger("perennial.monitor")


def monitor_window(
    lake: Lake,
    journal: Predictions,
    problem: Problem,
    package: Path,
    window: Period,
    *,
    reports: Path,
    version: str,
    asof: datetime | None = None,
    policy: TriggerPolicy = TriggerPolicy(),
    draw: bool = True,
) -> WindowVerdict:
    """Judge the version's answers of the window by labels known before `asof`, and record the verdict.

    `asof` defaults to the window's end plus the horizon, when its last label is mature: a run of the
    same window then gives the same verdict, whenever it happens. Without `draw` no report is kept.
    """
    champion, matures = read_champion(package, version), window.until + problem.horizon
    seen = asof or matures
    answers = journal.read_predictions(window)
    served = pick_served(answers, version)
    current, columns = parse_features(served, champion.contract), list_columns(champion.contract, problem)
    labels = read_labels(lake, window, seen).filter(model_version=version, served_by="champion")
    quality = _judge_labels(labels, served, champion, problem.target, mature=seen >= matures)
    drift = compare_inputs(champion, current, columns, problem, window)
    score_drift = _judge_scores(champion, current, problem, window)
    estimate = _estimate(champion, current, problem, window)
    doubt = doubt_estimates(lake, version, seen, estimate, quality)
    # What a canary answered was not asked of the champion.
    asked = answers.filter(pl.col("served_by") != "challenger")["entity"].n_unique() if len(answers) else 0
    flagged = share_flagged(served)
    coverage = len(served) / asked if asked else 0.0
    signals = (
        judge_inputs(drift),
        judge_predictions(score_drift),
        judge_estimate(replace(estimate, reason="; ".join((estimate.reason, *doubt)))),
        judge_coverage(len(served), asked),
        judge_flagged(round(flagged * len(served)), len(served)),
        judge_skew(*_count_skew(lake, window)),
    )
    told = f"{len(served)} things answered by v{version}, {coverage:.1%} of those answered in the window"
    verdict = WindowVerdict(
        window=window,
        asof=seen,
        version=version,
        answers=len(answers),
        rows=len(served),
        coverage=coverage,
        flagged=flagged,
        quality=quality,
        drift=drift,
        score_drift=score_drift,
        breaches=name_breaches(quality.breaches, drift.drifted_importance, policy),
        reasons=(told, *quality.reasons, *check_estimate(estimate, quality), *doubt, *drift.reasons),
        estimate=estimate,
        signals=signals,
    )
    if drift.enough and draw:
        drawn = _attach_labels(current, labels, problem.target) if quality.quality else current
        verdict = _draw_report(
            verdict, problem.name, drawn, champion.reference, columns, target=problem.target, folder=reports
        )
    record_verdict(lake, verdict)
    return verdict


def _draw_report(verdict: WindowVerdict, *given: Any, **named: Any) -> WindowVerdict:
    """Have the window's report drawn. One that cannot be, is told of: the verdict does not hang on it."""
    try:
        return report_window(verdict, *given, **named)
    except (Exception, PanicException) as error:
        log.exception("no report of %s could be drawn", verdict.key)
        told = f"no report: {type(error).__name__} when it was drawn"
        return replace(verdict, reasons=(*verdict.reasons, told))


def _judge_labels(
    labels: pl.DataFrame, served: pl.DataFrame, champion: Champion, target: str, *, mature: bool
) -> QualityVerdict:
    told = labels.filter(pl.col("outcome").is_not_null())
    held = champion.reference.filter(pl.col(target).is_not_null())
    now = told["score"].to_numpy(), told["outcome"].to_numpy()
    then = held["score"].cast(pl.Float64).to_numpy(), held[target].cast(pl.Float64).to_numpy()
    arrived = min(1.0, len(labels) / len(served)) if len(served) else 0.0
    return judge_quality(now, then, arrived=arrived, mature=mature)


def compare_inputs(
    champion: Champion, current: pl.DataFrame, columns: list[DriftColumn], problem: Problem, window: Period
) -> DriftVerdict:
    """Compare the columns of a window with what the champion was built on."""
    # The reference is turned to the window's mix of the calendar's columns; that mix is judged apart.
    calendar = list_calendar(champion, problem)
    held, now = (to_arrays(side, [*columns, *calendar]) for side in (champion.reference, current))
    days, length = _number_days(champion.reference, problem, window), _count_days(window)
    return judge_drift(held, now, columns, calendar=problem.calendar, days=days, length=length)


def _judge_scores(
    champion: Champion, current: pl.DataFrame, problem: Problem, window: Period
) -> ColumnDrift | None:
    verdict = compare_inputs(champion, current, [DriftColumn("score", "number")], problem, window)
    return verdict.columns[0] if verdict.enough else None


def _number_days(reference: pl.DataFrame, problem: Problem, window: Period) -> NDArray[np.intp] | None:
    """Number the reference's days, each from the window's own time of day; None without times."""
    if problem.decided_at not in reference.columns or reference[problem.decided_at].null_count():
        return None
    passed = (reference[problem.decided_at] - window.since).dt.total_seconds() // 86_400
    return passed.to_numpy().astype(np.intp)


def _count_days(window: Period) -> float:
    return (window.until - window.since) / timedelta(days=1)


def _estimate(champion: Champion, current: pl.DataFrame, problem: Problem, window: Period) -> Estimate:
    held = champion.reference.filter(pl.col(problem.target).is_not_null())
    days = _number_days(held, problem, window)
    scores, outcomes = (held[name].cast(pl.Float64).to_numpy() for name in ("score", problem.target))
    if min(len(held), len(set(outcomes))) < 2:
        return Estimate("unknown", None, "no estimate: the reference does not hold both outcomes")
    calibration = fit_calibration(scores, outcomes, days)
    return estimate_auc(calibration, current["score"].drop_nulls().to_numpy(), days=_count_days(window))


def doubt_estimates(
    lake: Lake,
    version: str,
    seen: datetime,
    estimate: Estimate | None = None,
    quality: QualityVerdict | None = None,
) -> tuple[str, ...]:
    """Say so if labels came to lie outside the version's estimates more often than the intervals allow."""
    pairs = read_estimates(lake, version, seen)
    if estimate and estimate.auc and quality and quality.quality:
        pairs.append((estimate.auc, quality.quality.auc.value))
    _, too_often, told = count_missed(pairs)
    return (told,) if too_often else ()


def _count_skew(lake: Lake, window: Period) -> tuple[int, dict[str, int]]:
    """Return how many values the skew probe compared in the window, and by feature how many were wrong."""
    probed = lake.read(SKEW)
    if not probed.width:
        return 0, {}
    inside = probed.filter(pl.col("since") >= window.since, pl.col("until") <= window.until)
    counted = inside.group_by("feature").agg(pl.col("mismatched").sum()).sort("feature")
    return int(inside["compared"].sum()), dict(counted.iter_rows())


def _attach_labels(current: pl.DataFrame, labels: pl.DataFrame, target: str) -> pl.DataFrame:
    told = labels.filter(pl.col("outcome").is_not_null())
    return current.join(told.select("prediction_id", pl.col("outcome").alias(target)), on="prediction_id")
