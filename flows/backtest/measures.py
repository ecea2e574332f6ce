"""What a replayed policy was worth: quality by week and month, regret, and differences with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.backtest.record import Record
from flows.backtest.replay import Past, Replay, Request
from flows.policy.gate import log_loss, resample_days
from flows.policy.quality import measure_quality

Floats = NDArray[np.float64]
RESAMPLES, LEVEL, SEED = 2_000, 0.95, 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """A week or a month: AUC and Brier skill are NaN where there is no row, or one outcome only."""

    name: str
    since: datetime
    rows: int
    auc: float
    skill: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A policy less another: mean monthly AUC, and log loss a row with its interval, whole days resampled."""

    other: str
    auc: float
    log_loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Worth:
    """One policy in figures.

    mean_auc, skill_min  over the months; the mean weighs each month alike
    worst_week           least of (AUC less that of the first model, left alone) over the weeks, and which
    retrains, rejected   trainings asked for, and those of them that came to no new champion
    seconds              of fitting, as if the policy had run alone
    regret_auc, regret_loss   mean over the weeks, each alike, of the oracle's AUC less the policy's, and of
                         the policy's log loss less the oracle's. Each week the oracle serves whichever
                         model turns out best in it, by AUC or by log loss, of all that were trained by its
                         start (one a week, and the first one), gate or no gate.
    """

    policy: str
    months: tuple[Stretch, ...]
    weeks: tuple[Stretch, ...]
    requests: tuple[Request, ...]
    mean_auc: float
    skill_min: float
    worst_week: float
    worst_since: datetime | None
    retrains: int
    rejected: int
    seconds: float
    regret_auc: float
    regret_loss: float
    differences: tuple[Difference, ...] = ()


def read_scores(replay: Replay, record: Record) -> Floats:
    """Return the score that each row of the period was given."""
    parts = [
        span.model.read(slice(record.find(span.period.since), record.find(span.period.until)))
        for span in replay.spans
    ]
    return np.concatenate(parts)


def measure_rows(name: str, since: datetime, scores: Floats, outcomes: Floats) -> Stretch:
    """Measure a stretch of rows."""
    if len(set(outcomes.tolist())) < 2:
        loss = float(log_loss(outcomes, scores).mean()) if len(outcomes) else float("nan")
        return Stretch(name, since, len(outcomes), float("nan"), float("nan"), loss)
    found = measure_quality(scores, outcomes)
    return Stretch(name, since, found.rows, found.auc.value, found.skill.value, found.log_loss)


def cut_weeks(past: Past) -> list[tuple[datetime, slice]]:
    """Return the stretches between decisions, in which a policy serves one model: start and rows."""
    ends = [past.period.since, *(d.at for d in past.decisions), past.period.until]
    found = [past.record.find(end) for end in ends]
    return [(ends[i], slice(found[i], found[i + 1])) for i in range(len(ends) - 1)]


def measure_weeks(scores: Floats, past: Past) -> tuple[Stretch, ...]:
    """Measure each week; `scores` are of the period's rows."""
    start = past.record.find(past.period.since)
    return tuple(
        measure_rows(
            f"{since:%Y-%m-%d}",
            since,
            scores[rows.start - start : rows.stop - start],
            past.record.outcomes[rows],
        )
        for since, rows in cut_weeks(past)
    )


def measure_months(scores: Floats, past: Past) -> tuple[Stretch, ...]:
    """Measure each local calendar month that has rows."""
    record, rows = past.record, list_rows(past)
    names = record.local_days[rows].dt.strftime("%Y-%m").to_numpy()
    instants, outcomes = record.rows[record.problem.decided_at][rows], record.outcomes[rows]
    months = sorted(set(names.tolist()))
    return tuple(
        measure_rows(month, instants.filter(pl.Series(names == month)).min(), scores[names == month],  # type: ignore[arg-type]
                     outcomes[names == month])
        for month in months
    )  # fmt: skip


def list_rows(past: Past) -> slice:
    """Return which of the record's rows fall in the period."""
    return slice(past.record.find(past.period.since), past.record.find(past.period.until))


def find_oracle(past: Past) -> list[tuple[float, float]]:
    """Return, by week, the best AUC and the least log loss of any model trained by its start."""
    models = [past.first, *(m for m in past.models.values() if m is not None)]
    found = []
    for since, rows in cut_weeks(past):
        told = [
            measure_rows("", since, model.read(rows), past.record.outcomes[rows])
            for model in models
            if model.until <= since
        ]
        aucs, losses = np.array([t.auc for t in told]), np.array([t.log_loss for t in told])
        best = (float(np.max(aucs)), float(np.min(losses))) if rows.stop > rows.start else (np.nan, np.nan)
        found.append(best)
    return found


def value_policy(
    replay: Replay, past: Past, frozen: Sequence[Stretch], oracle: Sequence[tuple[float, float]]
) -> Worth:
    """Return a policy's worth; `frozen` are the weeks of the first model, left alone."""
    scores = read_scores(replay, past.record)
    months, weeks = measure_months(scores, past), measure_weeks(scores, past)
    gains = [(w.auc - f.auc, w.since) for w, f in zip(weeks, frozen, strict=True) if np.isfinite(w.auc)]
    worst, worst_since = min(gains) if gains else (float("nan"), None)
    aucs, skills = (np.array([getattr(m, name) for m in months]) for name in ("auc", "skill"))
    best_aucs, best_losses = np.array(oracle).T
    return Worth(
        policy=replay.policy,
        months=months,
        weeks=weeks,
        requests=replay.requests,
        mean_auc=_mean(aucs),
        skill_min=float(np.nanmin(skills)) if np.isfinite(skills).any() else float("nan"),
        worst_week=worst,
        worst_since=worst_since,
        retrains=len(replay.requests),
        rejected=sum(not request.passed for request in replay.requests),
        seconds=sum(request.seconds for request in replay.requests),
        regret_auc=_mean(best_aucs - np.array([w.auc for w in weeks])),
        regret_loss=_mean(np.array([w.log_loss for w in weeks]) - best_losses),
    )


def compare(
    name: str, scores: Mapping[str, Floats], worths: Mapping[str, Worth], past: Past
) -> tuple[Difference, ...]:
    """Return how a policy differs from each of the others, row by row."""
    rows = list_rows(past)
    outcomes, days = past.record.outcomes[rows], past.record.local_days[rows].cast(pl.Int64).to_numpy()
    mine, found = log_loss(outcomes, scores[name]), list[Difference]()
    for other, theirs in scores.items():
        if other != name:
            lost = mine - log_loss(outcomes, theirs)
            loss = resample_days(lost, days, LEVEL, RESAMPLES, SEED)
            found.append(Difference(other, worths[name].mean_auc - worths[other].mean_auc, *loss))
    return tuple(found)


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
