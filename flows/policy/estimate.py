"""Quality before its labels: what the scores themselves say of their AUC, with an interval.

The method is confidence-based performance estimation (CBPE; NannyML's documentation, 2022; the idea is
in Guillory et al., Predicting with Confidence on Unseen Distributions, ICCV 2021): a calibrated score
of 0.3 is right about three in ten, so the expected AUC follows from the scores alone. It sees that a
window is harder or easier to rank. It cannot see that the same inputs now mean something else: for that
only labels will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, expit, logit
from scipy.stats import chi2, norm

from flows.policy.quality import Interval, QualityVerdict

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EstimatePolicy:
    """How an estimate is made, and when it is a breach.

    draws      50 calibrations, each fitted on a resample of the reference, each with one draw of the
               window's labels: the interval holds what a small reference and chance may do.
    level      95% interval.
    tolerance  0.03 of AUC under the reference, as for realised quality.
    min_rows   200, as for realised quality; min_class 30 of each outcome likewise.
    min_days   5 days with as much, to tell how restless days are.
    sure       95%: so sure must it be that the days' unrest is no larger than what is counted with. A
               fortnight knows it badly.
    spell      3 days: weather lasts about so long, so a window holds a third as many draws of it as days.
    alpha      an interval that misses more often than chance would in 1 of 20 cases is not trusted.
    most       rows that are looked at: beyond 10,000 the labels' own chance is under 0.01 of AUC.
    """

    draws: int = 50
    level: float = 0.95
    tolerance: float = 0.03
    min_rows: int = 200
    min_class: int = 30
    min_days: int = 5
    sure: float = 0.95
    spell: float = 3.0
    alpha: float = 0.05
    most: int = 10_000
    seed: int = 20130101


@dataclass(frozen=True)
class Calibration:
    """Logistic calibrations of a score: slope and intercept of its logit, shape (draws + 1, 2).

    The first is fitted on the whole reference, the others on resamples of it. `unrest` is the variance
    of AUC from one day to the next that neither the labels' chance nor the fit explains, as large as it
    may be by the days that there are.
    """

    fits: Floats
    auc: float  # of the reference, by its labels
    unrest: float = 0.0

    def apply(self, scores: Floats, which: int = 0) -> Floats:
        """Return the calibrated probabilities."""
        slope, intercept = self.fits[which]
        return np.asarray(expit(slope * _to_logit(scores) + intercept), dtype=float)


@dataclass(frozen=True, slots=True)
class Estimate:
    """An AUC that is expected, not measured; `state` is "ok", "breach" or "unknown"."""

    state: str
    auc: Interval | None
    reason: str


def fit_calibration(
    scores: Floats,
    outcomes: Floats,
    days: NDArray[np.generic] | None = None,
    policy: EstimatePolicy = EstimatePolicy(),
) -> Calibration:
    """Fit on the held-out reference's scores in [0, 1] and outcomes 0/1 (Platt, 1999).

    Flights of one day share its weather: with `days` of the rows, how far the reference's own days lie
    from their estimates widens the interval (the moment estimate of random effects: DerSimonian and
    Laird, Controlled Clinical Trials 7, 1986), by as much as a tolerance interval of so few days would
    (Howe, Journal of the American Statistical Association 64, 1969).
    """
    rng, x = np.random.default_rng(policy.seed), _to_logit(scores)
    weights = [np.ones(len(x)), *(rng.poisson(1.0, len(x)).astype(float) for _ in range(policy.draws))]
    fits: list[Floats] = []
    for weight in weights:
        fits.append(_fit_logistic(x, outcomes, weight, fits[0] if fits else np.array([1.0, 0.0])))
    whole = Calibration(np.stack(fits), expect_auc(scores, outcomes))
    return (
        whole
        if days is None
        else replace(whole, unrest=_measure_unrest(whole, scores, outcomes, days, policy))
    )


def estimate_auc(
    calibration: Calibration, scores: Floats, policy: EstimatePolicy = EstimatePolicy(), *, days: float = 1.0
) -> Estimate:
    """Estimate the AUC of a window of so many days from its scores alone, and say whether it surely fell."""
    scores = np.asarray(scores, dtype=float)
    scores = scores[np.isfinite(scores)]
    if len(scores) < policy.min_rows:
        return Estimate("unknown", None, f"no estimate: {len(scores)} scores, {policy.min_rows} needed")
    ones = float(calibration.apply(scores).sum())
    if min(ones, len(scores) - ones) < policy.min_class:
        told = f"no estimate: of {len(scores)} scores {ones:.1f} outcomes of 1 are expected"
        return Estimate("unknown", None, f"{told}, {policy.min_class} of each needed")
    rng = np.random.default_rng(policy.seed)
    chosen = np.sort(scores if len(scores) <= policy.most else rng.choice(scores, policy.most, replace=False))
    ends = _find_ties(chosen)
    expected = _expect_sorted(calibration.apply(chosen), *ends)
    drawn = [
        _expect_sorted((rng.random(len(chosen)) < calibration.apply(chosen, which)).astype(float), *ends)
        for which in range(1, len(calibration.fits))
    ]
    # The draws' spread around their own middle: their mean may lie off by a resample's chance.
    wide = np.sqrt(np.nanvar(drawn) + calibration.unrest / max(1.0, days / policy.spell))
    spread = float(wide * norm.ppf(0.5 + policy.level / 2))
    auc = Interval(expected, max(0.0, expected - spread), min(1.0, expected + spread))
    limit = calibration.auc - policy.tolerance
    told = f"estimated AUC {auc} against {calibration.auc:.3f} of the reference, by the scores alone"
    return Estimate("breach" if auc.high < limit else "ok", auc, told)


def count_missed(
    pairs: Sequence[tuple[Interval, float]], policy: EstimatePolicy = EstimatePolicy()
) -> tuple[int, bool, str]:
    """Count realised values outside their estimate's interval: how many, whether too many, in words."""
    missed = sum(not interval.low <= value <= interval.high for interval, value in pairs)
    if not pairs:
        return 0, False, "no estimate has been checked by labels yet"
    chance = float(bdtrc(missed - 1, len(pairs), 1 - policy.level)) if missed else 1.0
    told = f"realised AUC outside the estimate's interval in {missed} of {len(pairs)} windows"
    if chance < policy.alpha:
        return missed, True, f"{told}, more than a {policy.level:.0%} interval should: do not rely on it"
    return missed, False, told


def check_estimate(estimate: Estimate, quality: QualityVerdict) -> tuple[str, ...]:
    """Say in words how the estimate did, once the labels are there."""
    if estimate.auc is None or quality.quality is None:
        return ()
    realised, held = quality.quality.auc.value, estimate.auc
    if held.low <= realised <= held.high:
        return (f"{estimate.reason}; realised {realised:.3f}, inside its interval",)
    return (f"{estimate.reason}; realised {realised:.3f}, outside its interval: do not rely on it",)


def expect_auc(scores: Floats, chances: Floats) -> float:
    """Return the AUC's expectation where row i is a 1 by `chances[i]`: expected wins over expected pairs.

    With chances 0/1 it is the AUC itself, ties counted half.
    """
    order = np.argsort(scores, kind="stable")
    return _expect_sorted(chances[order], *_find_ties(scores[order]))


def _find_ties(ordered: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.searchsorted(ordered, ordered, "left"), np.searchsorted(ordered, ordered, "right")


def _expect_sorted(p: Floats, first: NDArray[np.intp], last: NDArray[np.intp]) -> float:
    below = np.concatenate([[0.0], np.cumsum(1 - p)])
    # A row does not compete with itself.
    own = float(np.sum(p * (1 - p)))
    wins = float(np.sum(p * (below[first] + below[last]) / 2)) - own / 2
    pairs = float(p.sum() * (1 - p).sum()) - own
    return wins / pairs if pairs > 0 else float("nan")


def _measure_unrest(
    calibration: Calibration,
    scores: Floats,
    outcomes: Floats,
    days: NDArray[np.generic],
    policy: EstimatePolicy,
) -> float:
    excess = []
    for day in np.unique(days):
        of_day = days == day
        ones = outcomes[of_day].sum()
        if of_day.sum() < policy.min_rows or min(ones, of_day.sum() - ones) < policy.min_class:
            continue
        found = estimate_auc(calibration, scores[of_day], policy).auc
        if found is not None:
            explained = (found.high - found.low) / 2 / norm.ppf(0.5 + policy.level / 2)
            excess.append((expect_auc(scores[of_day], outcomes[of_day]) - found.value) ** 2 - explained**2)
    count = len(excess)
    if count < policy.min_days:
        return 0.0
    unsure = (count - 1) * (1 + 1 / count) / float(chi2.ppf(1 - policy.sure, count - 1))
    return max(0.0, float(np.mean(excess))) * unsure


def _fit_logistic(x: Floats, y: Floats, weight: Floats, start: Floats) -> Floats:
    # Newton's method: two parameters, a dozen steps at most.
    beta = start.astype(float)
    design = np.column_stack([x, np.ones(len(x))])
    for _ in range(25):
        p = expit(design @ beta)
        pull = design.T @ (weight * (y - p))
        curve = (design * (weight * p * (1 - p) + 1e-9)[:, None]).T @ design
        step = np.linalg.solve(curve, pull)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def _to_logit(scores: Floats) -> Floats:
    return np.asarray(logit(np.clip(np.asarray(scores, dtype=float), 1e-6, 1 - 1e-6)), dtype=float)
