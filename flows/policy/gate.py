"""The gate: may this candidate take over? Closed by default; every check must hold.

Differences are paired, row by row, and their interval comes from resampling whole days: flights of one
day share its weather, so rows are far from independent (a block bootstrap, Kunsch 1989). A week or two of
days are few: the percentiles are expanded for that (Hesterberg, The American Statistician 69, 2015).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from flows.policy.gate_check import Check
from flows.policy.gate_inputs import InputColumn, Remade, check_alone, check_contract, check_remade
from flows.policy.recalibration import Slope, fit_slope

__all__ = ["Check", "Evidence", "GatePolicy", "GateVerdict", "judge", "judge_scores"]

Floats = NDArray[np.float64]
LINEAR = "linear model"


@dataclass(frozen=True)
class GatePolicy:
    """What the gate asks for.

    min_rows          labelled rows that neither model was fitted on
    min_days          whole days among them: the bootstrap resamples days
    min_slice_rows    a slice of fewer, or of fewer than `min_days`, is not judged
    level             confidence of the overall interval; slices share its error (Bonferroni)
    max_bias          |mean prediction - observed rate| of the candidate, a fifth of a typical rate;
                      or no further off than the champion, whichever is more
    slopes            of the logistic recalibration: at 1 the scores are as spread as they should be, below
                      they are too sure of themselves; surely outside closes the gate, unless the
                      champion's lies further off
    max_latency_ms    95th percentile of one answer in a clean process
    resamples, seed   of the bootstrap
    """

    min_rows: int = 2_000
    min_days: int = 7
    min_slice_rows: int = 300
    level: float = 0.95
    max_bias: float = 0.05
    slopes: tuple[float, float] = (0.6, 1.5)
    max_latency_ms: float = 50.0
    resamples: int = 2_000
    seed: int = 0


@dataclass(frozen=True)
class GateVerdict:
    """All checks, and what they amount to.

    behind   the candidate's log loss less the champion's; None without one, or without enough rows
    """

    checks: tuple[Check, ...]
    behind: float | None = None

    @property
    def passed(self) -> bool:
        """True only if there are checks and each of them holds."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What kept the gate closed, in words."""
        return tuple(f"{c.name}: {c.got}, expected {c.expected}" for c in self.checks if not c.passed)


@dataclass(frozen=True)
class Evidence:
    """The rows that both are judged on, and what a clean process said of the candidate.

    outcomes      (n,) 0/1
    candidate     (n,) probabilities
    rivals        name -> (n,) probabilities: the champion if there is one, the base rate, a linear model
    days          (n,) integers: which day each row belongs to
    slices        name of a slicing column -> (n,) labels
    latency_ms    95th percentile of one answer in a clean process; None if it did not answer
    complaint     why it did not answer, or ""
    inputs        the candidate's inputs, where it learned and in these rows
    remade        the inputs' values made again as of the decision
    best_auc      the best that a champion has had, when it was fitted or on these rows; None if there is none
    """

    outcomes: Floats
    candidate: Floats
    rivals: Mapping[str, Floats]
    days: NDArray[np.int64]
    slices: Mapping[str, NDArray[Any]]
    latency_ms: float | None
    complaint: str = ""
    inputs: tuple[InputColumn, ...] = ()
    remade: tuple[Remade, ...] = ()
    best_auc: float | None = None


def judge(evidence: Evidence, policy: GatePolicy = GatePolicy()) -> GateVerdict:
    """Return the verdict on a candidate."""
    enough, *rest = (scores := judge_scores(evidence, policy)).checks
    inputs = [check_contract(evidence.inputs), check_remade(evidence.remade)]
    inputs.append(check_alone(evidence.inputs, evidence.best_auc))
    return GateVerdict((_answers(evidence, policy), enough, *inputs, *rest), scores.behind)


def judge_scores(evidence: Evidence, policy: GatePolicy = GatePolicy()) -> GateVerdict:
    """Return the verdict on what the candidate says alone: not on its inputs, nor on how it answers."""
    checks = [_enough(evidence, policy)]
    if not checks[0].passed or not evidence.rivals:
        rivals = Check("rivals", bool(evidence.rivals), f"{len(evidence.rivals)} rivals", "one or more")
        return GateVerdict((*checks, rivals))
    for name, scores in evidence.rivals.items():
        checks.append(_better(name, evidence, scores, policy))
    checks.append(_unbiased(evidence, policy))
    checks.extend(_well_spread(evidence, policy))
    champion = evidence.rivals.get("champion")
    if champion is not None:
        checks.extend(_no_slice_worse(evidence, champion, policy))
    return GateVerdict(tuple(checks), _measure_gap(evidence, champion))


def log_loss(outcomes: Floats, scores: Floats) -> Floats:
    """Return each row's log loss, in nats."""
    p = np.clip(scores, 1e-6, 1 - 1e-6)
    return -(outcomes * np.log(p) + (1 - outcomes) * np.log(1 - p))


def resample_days(
    difference: Floats, days: NDArray[np.int64], level: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return (mean, low, high) of a row-wise difference, resampling whole days.

    Of n days the plain percentiles reach as far as a normal with the variance over n would: they are
    expanded to what Student's t with n - 1 degrees asks. One day knows nothing of its spread.
    """
    found, block = np.unique(days, return_inverse=True)
    count = len(found)
    if count < 2:
        return float(difference.mean()), -np.inf, np.inf
    sums, sizes = np.bincount(block, difference), np.bincount(block)
    draws = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    reach = np.sqrt(count / (count - 1)) * special.stdtrit(count - 1, (1 - level) / 2)
    tail = float(special.ndtr(reach))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(difference.mean()), float(low), float(high)


def _answers(evidence: Evidence, policy: GatePolicy) -> Check:
    expected = f"an answer within {policy.max_latency_ms:g} ms (95th percentile)"
    if evidence.latency_ms is None:
        return Check("loads and answers in a clean process", False, evidence.complaint, expected)
    passed = evidence.latency_ms <= policy.max_latency_ms
    return Check("loads and answers in a clean process", passed, f"{evidence.latency_ms:.1f} ms", expected)


def _enough(evidence: Evidence, policy: GatePolicy) -> Check:
    rows, days = len(evidence.outcomes), len(np.unique(evidence.days))
    return Check(
        "newer labelled data",
        rows >= policy.min_rows and days >= policy.min_days,
        f"{rows} rows of {days} days that no rival was fitted on",
        f"{policy.min_rows} rows of {policy.min_days} days or more",
    )


def _better(name: str, evidence: Evidence, scores: Floats, policy: GatePolicy) -> Check:
    difference = log_loss(evidence.outcomes, evidence.candidate) - log_loss(evidence.outcomes, scores)
    mean, low, high = resample_days(difference, evidence.days, policy.level, policy.resamples, policy.seed)
    got = f"log loss differs by {mean:+.4f} ({policy.level:.0%}: {low:+.4f} to {high:+.4f})"
    if name == LINEAR and "champion" in evidence.rivals:
        # In a fortnight that a linear model suits, the better of two trees would be refused for it.
        return Check(f"not worse than the {name}", low <= 0, got, "an interval not surely above zero")
    return Check(f"better than the {name}", high < 0, got, "an interval below zero")


def _measure_gap(evidence: Evidence, champion: Floats | None) -> float | None:
    if champion is None:
        return None
    gap = log_loss(evidence.outcomes, evidence.candidate) - log_loss(evidence.outcomes, champion)
    return float(gap.mean())


def _unbiased(evidence: Evidence, policy: GatePolicy) -> Check:
    rate = evidence.outcomes.mean()
    bias = float(evidence.candidate.mean() - rate)
    # Where the rate itself has just moved, nobody is within the bound: then, nearer than the champion.
    champion = evidence.rivals.get("champion")
    bound = policy.max_bias if champion is None else max(policy.max_bias, abs(float(champion.mean() - rate)))
    got = f"mean prediction off by {bias:+.3f}"
    return Check("calibration in the large", abs(bias) <= bound, got, f"at most {bound:.3f}")


def _well_spread(evidence: Evidence, policy: GatePolicy) -> list[Check]:
    slope = fit_slope(evidence.candidate, evidence.outcomes, evidence.days, policy.level)
    upright, spread = "ranks the right way up", "calibration slope"
    low, high = policy.slopes
    if slope is None:
        got = "no slope: the scores are all one, or the outcomes are"
        return [Check(upright, False, got, "scores that rank"), Check(spread, False, got, f"{low} to {high}")]
    turned = slope.high < 0
    told = f"ranks upside down, slope {slope}" if turned else f"slope {slope}"
    checks = [Check(upright, not turned, told, "not surely below zero")]
    champion = evidence.rivals.get("champion")
    other = None if champion is None else fit_slope(champion, evidence.outcomes, evidence.days, policy.level)
    outside = slope.low > high or slope.high < low
    nearer = other is not None and other.value > 0 and _distance(slope) <= _distance(other)
    passed = not turned and (not outside or nearer)
    return [*checks, Check(spread, passed, f"slope {slope}", f"not surely outside {low} to {high}")]


def _distance(slope: Slope) -> float:
    """Return how far a slope is from 1, a half as far as twice; infinity if it does not rank."""
    return abs(float(np.log(slope.value))) if slope.value > 0 else float("inf")


def _no_slice_worse(evidence: Evidence, champion: Floats, policy: GatePolicy) -> list[Check]:
    difference = log_loss(evidence.outcomes, evidence.candidate) - log_loss(evidence.outcomes, champion)
    judged = [
        (column, value, labels == value)
        for column, labels in evidence.slices.items()
        for value in np.unique(labels)
        if _is_judged(evidence.days[labels == value], policy)
    ]
    checks = []
    # One-sided at 5% over all slices together.
    level = 1 - 2 * (1 - policy.level) / max(len(judged), 1)
    for column, value, mask in judged:
        mean, low, _ = resample_days(
            difference[mask], evidence.days[mask], level, policy.resamples, policy.seed
        )
        got = f"log loss {mean:+.4f}, at least {low:+.4f}, on {int(mask.sum())} rows"
        checks.append(Check(f"not worse for {column} {value}", low <= 0, got, "not surely above zero"))
    return checks


def _is_judged(days: NDArray[np.int64], policy: GatePolicy) -> bool:
    return len(days) >= policy.min_slice_rows and len(np.unique(days)) >= policy.min_days
