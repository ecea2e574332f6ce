"""AUC as estimated before any label against AUC as realised, day by day and by month over the year.

One model, fitted on January and half of February, calibrated on the other half, then left alone.
"""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM
from flows.judgement import doubt_estimates
from flows.model import build_estimator
from flows.policy.estimate import Calibration, count_missed, estimate_auc, fit_calibration
from flows.policy.quality import Interval, measure_auc
from flows.train import predict
from flows.training_set import to_matrix
from flows.verdicts import TABLE as VERDICTS
from tests.bench.bench_monitoring import figure, show_table
from tests.bench.serving.material import prepare

TAUGHT = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 15, tzinfo=UTC)
HELD = datetime(2013, 2, 15, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)
MAX_OFF = 0.05  # of AUC: about the fall that a release gate would not let through
MAX_MISSED = 0.15  # a fortnight in winter cannot know a summer's days; what is over 0.05 must be said
LEVEL, LEVEL_OF_DOUBT = 0.95, 0.05
LEAST = 30  # of each outcome, as for realised quality


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    rows, calibration = score_year()
    offs: list[float] = []
    daily: list[tuple[Interval, float]] = []
    table, months = [], []
    for month in range(3, 13):
        inside = rows.filter(pl.col("decided_at").dt.month() == month, pl.col("decided_at").dt.year() == 2013)
        estimated, realised = _compare(calibration, inside)
        pairs = [
            _compare(calibration, day)
            for (_,), day in inside.group_by(pl.col("decided_at").dt.date(), maintain_order=True)
            if min(day[PROBLEM.target].sum(), (1 - day[PROBLEM.target]).sum()) >= LEAST
        ]
        offs.append(abs(estimated.value - realised))
        daily += pairs
        by_day = float(np.mean([abs(one.value - got) for one, got in pairs]))
        missed, too_often, told = count_missed(pairs)
        table.append(
            (
                f"2013-{month:02}",
                str(estimated),
                f"{realised:.3f}",
                f"{offs[-1]:.3f}",
                f"{by_day:.3f}",
                f"{missed} of {len(pairs)}",
                "too often" if too_often else "",
            )
        )
        months.append({"month": month, "estimated": str(estimated), "realised": realised, "days": told})
    head = ("month", "estimated AUC", "realised", "off", "mean off, days", "days outside", "")
    show_table(head, table)
    mean = float(np.mean(offs))
    name = "estimated quality: mean absolute error in AUC over the months"
    yield figure(name, round(mean, 4), f"<= {MAX_OFF}", mean <= MAX_OFF, months=months)
    missed, too_often, told = count_missed(daily)
    share = missed / len(daily)
    name = "estimated quality: share of days whose realised AUC is outside its estimate's 95% interval"
    yield figure(name, round(share, 3), f"<= {MAX_MISSED}", share <= MAX_MISSED, says=told)
    yield _check_words(daily)


def _check_words(pairs: list[tuple[Interval, float]]) -> dict[str, Any]:
    """Record the days as the monitor does; what its next verdict would say must fit an independent test."""
    from scipy.stats import binomtest

    missed = sum(got < one.low or got > one.high for one, got in pairs)
    surely = binomtest(missed, len(pairs), 1 - LEVEL, alternative="greater").pvalue < LEVEL_OF_DOUBT
    rows = [
        {
            "key": f"{number}",
            "model_version": "1",
            "window_until": HELD[1] + timedelta(days=number),
            "asof": HELD[1] + timedelta(days=number),
            "estimated_auc": one.value,
            "estimated_auc_low": one.low,
            "estimated_auc_high": one.high,
            "auc": got,
        }
        for number, (one, got) in enumerate(pairs)
    ]
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        until = HELD[1] + timedelta(days=len(rows))
        lake.replace(VERDICTS, pl.DataFrame(rows), Period(HELD[1], until), by="asof")
        words = doubt_estimates(lake, "1", until)
    said = any("do not rely" in word for word in words)
    name = (
        "estimated quality: the monitor says not to rely on the estimate where it misses surely more than 5%"
    )
    return figure(name, said, str(surely).lower(), said == surely, missed=missed, days=len(pairs))


def score_year() -> tuple[pl.DataFrame, Calibration]:
    """Return the flights from March on with score and outcome, and the calibration."""
    rows = prepare().read_rows().drop_nulls(PROBLEM.target)
    taught, held = (
        rows.filter(pl.col("decided_at").is_between(*span, closed="left")) for span in (TAUGHT, HELD)
    )
    estimator = build_estimator(PROBLEM).fit(to_matrix(taught, PROBLEM), taught[PROBLEM.target].to_numpy())
    scored = rows.filter(pl.col("decided_at") >= HELD[1])
    scored = scored.with_columns(score=pl.Series(predict(estimator, scored, PROBLEM)))
    scores = predict(estimator, held, PROBLEM)
    days = held["decided_at"].dt.date().to_numpy()
    return scored, fit_calibration(scores, held[PROBLEM.target].cast(pl.Float64).to_numpy(), days)


def _compare(calibration: Calibration, rows: pl.DataFrame) -> tuple[Interval, float]:
    scores = rows["score"].to_numpy()
    days = rows["decided_at"].dt.date().n_unique()
    found = estimate_auc(calibration, scores, days=days).auc
    assert found is not None, "a day with enough of both outcomes has enough rows"
    return found, measure_auc(scores, rows[PROBLEM.target].cast(pl.Float64).to_numpy()).value
