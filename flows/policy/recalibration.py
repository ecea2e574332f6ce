"""The slope of the logistic recalibration of scores: are they as spread as they should be?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
STEPS, ENOUGH, STRETCH = 50, 1e-8, 1e-6


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope between two ends: 1 is right, under 1 the scores are too sure, under 0 upside down."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def fit_slope(scores: Floats, outcomes: Floats, days: NDArray[np.int64], level: float = 0.95) -> Slope | None:
    """Fit outcome ~ a + b logit(score); return b, or None where nothing can be fitted.

    The interval takes whole days as drawn (the cluster-robust variance of Liang and Zeger, 1986), with as
    many degrees of freedom as there are days less one. Cox, 1958, has the measure.
    """
    p = np.clip(np.asarray(scores, dtype=float), STRETCH, 1 - STRETCH)
    logit = np.log(p / (1 - p))
    if np.ptp(logit) == 0 or np.ptp(outcomes) == 0:
        return None
    design = np.column_stack([np.ones(len(logit)), logit])
    found = _fit(design, outcomes)
    if found is None:
        return None
    weights, fitted = found
    bread = np.linalg.inv((design * (fitted * (1 - fitted))[:, None]).T @ design)
    blocks, block = np.unique(days, return_inverse=True)
    pulls = np.column_stack([np.bincount(block, column * (outcomes - fitted)) for column in design.T])
    count = len(blocks)
    if count < 2:
        return None
    variance = bread @ (pulls.T @ pulls) @ bread * count / (count - 1)
    wide = float(student.ppf(0.5 + level / 2, count - 1) * np.sqrt(variance[1, 1]))
    return Slope(float(weights[1]), float(weights[1]) - wide, float(weights[1]) + wide)


def _fit(design: Floats, outcomes: Floats) -> tuple[Floats, Floats] | None:
    """Newton's method on the logistic likelihood; None if it does not settle."""
    weights = np.zeros(2)
    for _ in range(STEPS):
        fitted = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        curve = (design * np.maximum(fitted * (1 - fitted), 1e-12)[:, None]).T @ design
        try:
            step = np.linalg.solve(curve, design.T @ (outcomes - fitted))
        except np.linalg.LinAlgError:
            return None
        weights = weights + np.clip(step, -5, 5)
        if np.abs(step).max() < ENOUGH:
            return weights, fitted
    return None
