"""Realised quality with intervals: is the champion surely worse than on its held-out reference?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QualityPolicy:
    """When quality is judged, and when it is broken.

    auc_tolerance    0.03: a customary margin of model monitoring; a smaller loss is not worth the
                     risk of a new model.
    skill_tolerance  0.05: the skill falls when the problem itself gets harder, so it is given more
                     room than the AUC.
    calibration      0.8 to 1.25: observed over expected count (the measure: Debray et al., BMJ
                     356:i6460, 2017), a fifth off, even on both sides. A score outside it is no
                     probability any more, however well it ranks.
    min_rows         with fewer than 200 labels an AUC's interval is wider than any tolerance.
    min_class        30 of each outcome, below which DeLong's normal interval is not to be trusted.
    min_share        80% of the labels must have arrived, or those that come first stand for all.
    level            95% intervals.
    """

    auc_tolerance: float = 0.03
    skill_tolerance: float = 0.05
    calibration: tuple[float, float] = (0.8, 1.25)
    min_rows: int = 200
    min_class: int = 30
    min_share: float = 0.8
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate between two ends."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores against outcomes: higher AUC and skill are better, lower log loss and Brier."""

    rows: int
    base_rate: float
    auc: Interval
    log_loss: float
    brier: float
    skill: Interval  # Brier skill over the rows' own base rate
    calibration: Interval  # observed over expected count of 1s: above 1 the scores are too low


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """`state` is "ok", "breach" or "unknown"; never "ok" for want of labels.

    `breaches` names what broke: "quality" (ranking or skill), "underrating" (more 1s than the scores
    say) or "overrating" (fewer).
    """

    state: str
    quality: Quality | None
    reference: Quality | None
    arrived: float
    breaches: tuple[str, ...]
    reasons: tuple[str, ...]


def judge_quality(
    current: tuple[Floats, Floats],
    reference: tuple[Floats, Floats],
    *,
    arrived: float,
    mature: bool,
    policy: QualityPolicy = QualityPolicy(),
) -> QualityVerdict:
    """Judge (scores, outcomes) of a window against those of the held-out reference.

    `arrived` is the share of the window's predictions whose label is known, `mature` whether the
    longest wait for one is over. Breach: the upper end of an interval lies under the reference
    less the tolerance, or the whole interval of observed over expected outside its range.
    """
    missing = _find_missing(current, reference, arrived, mature, policy)
    if missing:
        return QualityVerdict("unknown", None, None, arrived, (), (f"no quality verdict: {missing}",))
    now, then = (measure_quality(*side, policy=policy) for side in (current, reference))
    found = (*_find_losses(now, then, policy), *_find_bias(now, policy))
    breaches = tuple(dict.fromkeys(name for name, _ in found))
    told = (
        f"AUC {now.auc} against {then.auc.value:.3f}, skill {now.skill} against {then.skill.value:.3f}, "
        f"observed over expected {now.calibration}"
    )
    reasons = tuple(reason for _, reason in found) or (told,)
    return QualityVerdict("breach" if found else "ok", now, then, arrived, breaches, reasons)


def measure_quality(scores: Floats, outcomes: Floats, policy: QualityPolicy = QualityPolicy()) -> Quality:
    """Measure scores in [0, 1] against outcomes 0/1; both classes must occur."""
    scores, outcomes = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=float)
    rate = float(outcomes.mean())
    safe = np.clip(scores, 1e-15, 1 - 1e-15)
    loss = -float(np.mean(outcomes * np.log(safe) + (1 - outcomes) * np.log(1 - safe)))
    brier = float(np.mean((scores - outcomes) ** 2))
    auc = measure_auc(scores, outcomes, policy.level)
    skill = measure_skill(scores, outcomes, policy.level)
    ratio = measure_calibration(safe, outcomes, policy.level)
    return Quality(len(scores), rate, auc, loss, brier, skill, ratio)


def measure_auc(scores: Floats, outcomes: Floats, level: float = 0.95) -> Interval:
    """AUC with DeLong's interval, by midranks (Sun and Xu, 2014); ends are cut to [0, 1]."""
    positive, negative = scores[outcomes == 1], scores[outcomes == 0]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    auc = float(above.mean())
    spread = float(norm.ppf(0.5 + level / 2) * np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    return Interval(auc, max(0.0, auc - spread), min(1.0, auc + spread))


def measure_skill(scores: Floats, outcomes: Floats, level: float = 0.95) -> Interval:
    """Brier skill over the rows' own base rate, 1 - Brier / (rate (1 - rate)).

    The interval is the delta method's, through both Brier and rate: its ends agree with a bootstrap's
    within a tenth of the width at 500 rows (tested), it needs no seed and costs nothing.
    """
    error, rate = (scores - outcomes) ** 2, float(outcomes.mean())
    spread = rate * (1 - rate)
    if spread == 0:
        return Interval(0.0, 0.0, 0.0)
    brier = float(error.mean())
    pull = -(error - brier) / spread + brier * (1 - 2 * rate) * (outcomes - rate) / spread**2
    skill, wide = 1 - brier / spread, float(norm.ppf(0.5 + level / 2) * pull.std() / np.sqrt(len(pull)))
    return Interval(skill, skill - wide, skill + wide)


def measure_calibration(scores: Floats, outcomes: Floats, level: float = 0.95) -> Interval:
    """Observed over expected count of 1s; the interval takes each outcome as drawn at its own score."""
    expected = float(scores.sum())
    ratio = float(outcomes.sum()) / expected
    # Scaling the spread with the ratio keeps it honest where the scores are far from the outcomes.
    spread = float(np.sqrt(np.sum(scores * (1 - scores)) * max(ratio, 1 / len(scores)))) / expected
    wide = float(norm.ppf(0.5 + level / 2)) * spread
    return Interval(ratio, max(0.0, ratio - wide), ratio + wide)


def _find_losses(now: Quality, then: Quality, policy: QualityPolicy) -> list[tuple[str, str]]:
    return [
        ("quality", f"{name} {got} is surely under the reference's {held.value:.3f} less {tolerance}")
        for name, got, held, tolerance in (
            ("AUC", now.auc, then.auc, policy.auc_tolerance),
            ("Brier skill", now.skill, then.skill, policy.skill_tolerance),
        )
        if got.high < held.value - tolerance
    ]


def _find_bias(now: Quality, policy: QualityPolicy) -> list[tuple[str, str]]:
    low, high = policy.calibration
    told = f"observed over expected {now.calibration} is surely outside {low} to {high}"
    if now.calibration.low > high:
        return [("underrating", told)]
    return [("overrating", told)] if now.calibration.high < low else []


def _find_missing(
    current: tuple[Floats, Floats],
    reference: tuple[Floats, Floats],
    arrived: float,
    mature: bool,
    policy: QualityPolicy,
) -> str:
    (scores, now), (held, then) = current, reference
    checks: tuple[tuple[bool, Callable[[], str]], ...] = (
        (not mature, lambda: f"{arrived:.0%} of the labels are here and the wait for the rest is not over"),
        (arrived < policy.min_share, lambda: f"{arrived:.0%} of the labels, {policy.min_share:.0%} needed"),
        (_is_thin(now, policy), lambda: f"{_tell(now)}; needed {policy.min_rows}, {policy.min_class} each"),
        (_is_thin(then, policy), lambda: f"the reference has {_tell(then)}"),
        (_count_void(scores) > 0, lambda: f"{_count_void(scores)} of {len(scores)} scores are no number"),
        (_count_void(held) > 0, lambda: f"{_count_void(held)} of the reference's scores are no number"),
    )
    return next((tell() for broken, tell in checks if broken), "")


def _count_void(scores: Floats) -> int:
    return int((~np.isfinite(np.asarray(scores, dtype=float))).sum())


def _is_thin(outcomes: Floats, policy: QualityPolicy) -> bool:
    ones = int(np.sum(outcomes))
    return len(outcomes) < policy.min_rows or min(ones, len(outcomes) - ones) < policy.min_class


def _tell(outcomes: Floats) -> str:
    return f"{len(outcomes)} labels, {int(np.sum(outcomes))} of them 1"
