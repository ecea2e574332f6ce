"""Is the challenger better? An always-valid test over days: look whenever you like, as often as you like.

The day is the unit: things of one day share its weather, so rows are far from independent. Each day gives
one difference in log loss, weighted by its rows. The interval is the confidence sequence of a mean with
unknown variance of Lai (On confidence sequences, Ann. Statist. 4, 1976), begun at the least number of days:
valid over all later looks at once, with no scale of effects to choose. Wang and Ramdas (Anytime-valid
t-tests, 2024) prove it anew; it is to unknown variance what the one of Waudby-Smith, Arbour, Sinha, Kennedy
and Ramdas (Time-uniform central limit theory, Ann. Statist. 52, 2024) is to a large sample, in the frame of
Howard, Ramdas, McAuliffe and Sekhon (Time-uniform confidence sequences, Ann. Statist. 49, 2021). It is exact
for Gaussian days of one size. For days of unlike size the error is the jackknife's, which errs on the wide
side, and days count as many as equal ones would: both are held by simulation (tests/proofs/releases.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

Floats = NDArray[np.float64]
Action = Literal["promote", "stop", "go on"]


@dataclass(frozen=True, slots=True)
class SequentialPolicy:
    """When a comparison is decided.

    level     of the two-sided confidence sequence: a model no better is promoted, ever, in at most half of
              the rest, 2.5%
    min_days  a whole week, so that every weekday has its say; days of unlike size count as fewer
    max_days  after which a challenger that is not surely better is given up
    """

    level: float = 0.95
    min_days: int = 7
    max_days: int = 60


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known at one look: log loss of the challenger less the champion's; below zero is better.

    days  whole days seen; `effective`: as many as they would be if all had the same size
    """

    action: Action
    days: int
    effective: float
    mean: float
    low: float
    high: float
    reasons: tuple[str, ...]


def compare(
    differences: Sequence[float] | Floats,
    sizes: Sequence[float] | Floats,
    policy: SequentialPolicy = SequentialPolicy(),
) -> Comparison:
    """Decide on the days seen so far: each one's mean difference, and how many rows it rests on."""
    d, w = np.asarray(differences, dtype=float), np.asarray(sizes, dtype=float)
    if not len(d) or not (w > 0).all():
        return Comparison("go on", 0, 0.0, 0.0, -np.inf, np.inf, ("no whole day with labels yet",))
    if not np.isfinite(d).all():
        return Comparison("go on", 0, 0.0, 0.0, -np.inf, np.inf, ("a day's difference is no number",))
    mean, spread, effective = (float(x[0, -1]) for x in trace_days(d[None], w[None], last=True))
    width = float(reach(np.array(effective), np.array(spread), policy))
    low, high = mean - width, mean + width
    told = (
        f"log loss {mean:+.4f} ({policy.level:.0%} at every look: {low:+.4f} to {high:+.4f}) "
        f"over {len(d)} days, worth {effective:.1f} of one size"
    )
    action, why = _decide(len(d), effective, low, high, policy)
    return Comparison(action, len(d), effective, mean, low, high, (why, told))


def _decide(
    days: int, effective: float, low: float, high: float, policy: SequentialPolicy
) -> tuple[Action, str]:
    if high < 0:
        return "promote", "surely better"
    if low > 0:
        return "stop", "surely worse"
    if days >= policy.max_days:
        return "stop", f"not surely better in {policy.max_days} days"
    if effective < policy.min_days:
        return "go on", f"undecided: less than {policy.min_days} days of one size"
    return "go on", "undecided"


def trace_days(d: Floats, w: Floats, *, last: bool = False) -> tuple[Floats, Floats, Floats]:
    """Return (mean, standard error, effective days) after each day, or the last: (runs, days) in and out.

    The standard error is the jackknife's of a weighted mean, days left out one at a time.
    """
    looks = [d.shape[1]] if last else range(1, d.shape[1] + 1)
    found = []
    for n in looks:
        x, share = d[:, :n], w[:, :n] / w[:, :n].sum(axis=1, keepdims=True)
        mean = (share * x).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = share / (1 - share) * (x - mean[:, None])
            error = np.sqrt((n - 1) / n * (moved**2).sum(axis=1)) if n > 1 else np.full(len(d), np.inf)
        found.append((mean, error, 1 / (share**2).sum(axis=1)))
    mean, error, effective = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    return mean, error, effective


def bound(days: Floats, policy: SequentialPolicy = SequentialPolicy()) -> Floats:
    """Return how many standard errors the interval reaches on either side; infinite before `min_days`."""
    m = policy.min_days
    start = _find_start(m, 1 - policy.level)
    n = np.maximum(days, m)
    told = (m * np.log1p(start**2 / (m - 1)) + np.log(n / m)) / n
    return np.where(days >= m - 1e-9, np.sqrt((n - 1) * np.expm1(told)), np.inf)


def reach(days: Floats, error: Floats, policy: SequentialPolicy = SequentialPolicy()) -> Floats:
    """Return how far the interval reaches on either side of the mean; infinite before `min_days`."""
    wide = bound(days, policy)
    known = np.isfinite(wide)
    return np.where(known, np.where(known, wide, 1.0) * error, np.inf)


@lru_cache
def _find_start(days: int, alpha: float) -> float:
    """Return the bound at the first look: what the error of that look and of all later ones leave."""

    def excess(a: float) -> float:
        return float(2 * student.sf(a, days - 1) + 2 * a * student.pdf(a, days - 1) - alpha)

    return float(brentq(excess, 1.0, 1e6))
