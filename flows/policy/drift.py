"""Input drift as an effect size that chance cannot explain: which columns moved, how far, and so what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc
from scipy.stats import norm

from flows.policy.bins import Bins, Codes, Column, fit_bins
from flows.policy.calendar import Calendar, fit_calendar, turn_reference

Floats = NDArray[np.float64]
Usual = tuple[float, float, frozenset[object]]  # median, share of nulls, categories seen


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """When a column counts as drifted.

    moderate, large  0.10 and 0.25 are the customary reading of a PSI in credit scoring (Siddiqi,
                     Credit Risk Scorecards, 2006): below 0.10 nothing, above 0.25 act. They apply to
                     the PSI in excess of what chance alone gives at this sample size. A moderate
                     drift must surely be above 0, a large one surely above `moderate`.
    alpha            surely: a one-sided bound that holds for all columns of a window at once
                     (Bonferroni) in 99.9% of windows. The budget is 1 false alarm in 100 windows;
                     the chi-square is an approximation, and at 100 rows the tail is heavier.
    min_rows         fewer rows leave a decile with under 10: too few to speak of a share.
    bins             deciles, as the customary limits assume.
    min_share        categories under 1% of the reference share one bin: their own counts would be
                     mostly noise. Those that it never saw have another.
    """

    moderate: float = 0.10
    large: float = 0.25
    alpha: float = 0.001
    min_rows: int = 100
    bins: int = 10
    min_share: float = 0.01


@dataclass(frozen=True, slots=True)
class DriftColumn:
    """A column to watch; `importance` is the model's, in any unit, negative counts as none."""

    name: str
    kind: str  # "number" or "category"
    importance: float | None = None


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How far one column moved: `effect` is the PSI in excess of `by_chance`, `low` its lower bound."""

    name: str
    kind: str
    psi: float
    by_chance: float
    low: float
    p_value: float  # times the number of columns
    weight: float  # of the model's importance; the columns' sum to 1
    level: str  # "none", "moderate" or "large"
    reason: str

    @property
    def effect(self) -> float:
        """PSI without the part that sampling alone explains, never below 0."""
        return max(0.0, self.psi - self.by_chance)


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """Every column's drift, and the share of the model's importance that moved far."""

    enough: bool
    columns: tuple[ColumnDrift, ...]
    drifted_importance: float
    rows: int
    reference_rows: int
    reasons: tuple[str, ...]

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The columns that surely moved, the most important first."""
        return tuple(sorted((c for c in self.columns if c.level != "none"), key=lambda c: -c.weight))


@dataclass(frozen=True)
class Profile:
    """A reference made ready for many windows: bins, counts by stratum of the calendar, what was usual."""

    columns: tuple[DriftColumn, ...]
    bins: tuple[Bins, ...]
    calendar: Calendar
    counts: Floats  # (strata, bins of all columns)
    held: Floats  # (strata,)
    usual: tuple[Usual, ...]
    policy: DriftPolicy

    @cached_property
    def starts(self) -> Codes:
        """Where each column's bins begin, shape (columns,)."""
        return np.cumsum([0, *(bins.count for bins in self.bins[:-1])]).astype(np.intp)

    def encode(self, frame: Mapping[str, Column]) -> tuple[Codes, Codes]:
        """Return each row's bins, (n, columns), and stratum, (n,)."""
        codes = [bins.encode(frame[c.name]) for c, bins in zip(self.columns, self.bins, strict=True)]
        return np.column_stack(codes) + self.starts, self.calendar.encode(frame, len(codes[0]))

    def judge(self, current: Mapping[str, Column]) -> DriftVerdict:
        """Compare a window's columns, 1-d arrays with null as NaN or None."""
        if len(current[self.columns[0].name]) < self.policy.min_rows:
            return self.judge_codes(*self.encode(current))
        notes = [
            _tell_change(c.kind, usual, _find_usual(current[c.name], c.kind), current[c.name])
            for c, usual in zip(self.columns, self.usual, strict=True)
        ]
        return self.judge_codes(*self.encode(current), notes)

    def judge_codes(self, codes: Codes, strata: Codes, notes: Sequence[str] = ()) -> DriftVerdict:
        """Compare a window that is encoded already."""
        rows, held, policy = len(codes), int(self.held.sum()), self.policy
        if min(rows, held) < policy.min_rows:
            reason = f"no drift verdict: {rows} rows against {held} of reference, {policy.min_rows} needed"
            return DriftVerdict(False, (), 0.0, rows, held, (reason,))
        turned = turn_reference(self.held, np.bincount(strata, minlength=len(self.held)).astype(float))
        old = turned.weights @ self.counts
        old *= turned.rows * len(self.columns) / old.sum()
        new = np.bincount(codes.ravel(), minlength=len(old)).astype(float)
        sizes = measure_psi(old, new, self.starts, policy.alpha / len(self.columns))
        weights = weigh_columns(self.columns)
        drifts = tuple(
            _judge_column(column, size, weight, note, len(self.columns), policy)
            for column, size, weight, note in zip(
                self.columns, sizes.T, weights, notes or [""] * len(weights), strict=True
            )
        )
        far = sorted((d for d in drifts if d.level == "large"), key=lambda d: -d.weight)
        share = float(sum(d.weight for d in far))
        head = (
            f"{len(far)} of {len(drifts)} columns moved far; they hold {share:.0%} of the model's importance"
        )
        told = (head, *(d.reason for d in far), *([turned.reason] if turned.reason else []))
        return DriftVerdict(True, drifts, share, rows, held, told)


def fit_profile(
    reference: Mapping[str, Column],
    columns: Sequence[DriftColumn],
    policy: DriftPolicy = DriftPolicy(),
    calendar: frozenset[str] = frozenset(),
) -> Profile:
    """Make a reference ready; the `calendar`'s columns among it are its strata."""
    bins = tuple(fit_bins(reference[c.name], c.kind, policy.bins, policy.min_share) for c in columns)
    usual = tuple(_find_usual(reference[c.name], c.kind) for c in columns)
    strata = fit_calendar(reference, calendar)
    profile = Profile(tuple(columns), bins, strata, np.zeros((1, 1)), np.zeros(1), usual, policy)
    codes, stratum = profile.encode(reference)
    width = int(profile.starts[-1]) + bins[-1].count
    flat = (stratum[:, None] * width + codes).ravel()
    counts = np.bincount(flat, minlength=strata.count * width).reshape(strata.count, width).astype(float)
    held = np.bincount(stratum, minlength=strata.count).astype(float)
    return Profile(tuple(columns), bins, strata, counts, held, usual, policy)


def judge_drift(
    reference: Mapping[str, Column],
    current: Mapping[str, Column],
    columns: Sequence[DriftColumn],
    policy: DriftPolicy = DriftPolicy(),
    calendar: frozenset[str] = frozenset(),
) -> DriftVerdict:
    """Compare each column of `current` with `reference`: 1-d arrays, null as NaN or None."""
    if not columns:
        return DriftVerdict(False, (), 0.0, 0, 0, ("no drift verdict: no columns to watch",))
    return fit_profile(reference, columns, policy, calendar).judge(current)


def measure_psi(reference: Floats, current: Floats, starts: Codes, alpha: float) -> Floats:
    """Return PSI, its expectation by chance, the p-value of no drift, and the effect's lower bound.

    Shape (4, columns): counts of all columns' bins stand in a row, each column's from its start on.
    Half a count is added to every bin, so that an empty one stays finite. Without drift the PSI
    follows (1/n + 1/m) times a chi-square with bins - 1 degrees of freedom (Yurdakul, Statistical
    Properties of Population Stability Index, 2018), whose mean is the expectation; with drift a
    noncentral one, which gives the bound at level 1 - alpha.
    """
    used = (reference + current) > 0
    bins = np.add.reduceat(used.astype(float), starts)
    spread = np.diff([*starts, len(reference)])
    sides, totals = [], []
    for side in (reference, current):
        total = np.add.reduceat(side, starts)
        sides.append(np.where(used, (side + 0.5) / np.repeat(total + 0.5 * bins, spread), 1.0))
        totals.append(total)
    psi = np.add.reduceat((sides[1] - sides[0]) * np.log(sides[1] / sides[0]), starts)
    scale, freedom = 1 / totals[0] + 1 / totals[1], np.maximum(bins - 1, 1)
    p = np.where(bins > 1, chdtrc(freedom, psi / scale), 1.0)
    low = np.where(p < alpha, scale * _bound_noncentrality(psi / scale, freedom, alpha), 0.0)
    return np.stack([psi, np.maximum(bins - 1, 0) * scale, p, low])


def weigh_columns(columns: Sequence[DriftColumn]) -> list[float]:
    """Return each column's share of the model's importance."""
    raw = np.array([max(0.0, c.importance or 0.0) for c in columns])
    # Without any importance every column counts alike: blind watching beats no watching.
    even = raw if raw.sum() > 0 else np.ones(len(columns))
    return [float(w) for w in even / even.sum()]


def _bound_noncentrality(found: Floats, freedom: Floats, alpha: float) -> Floats:
    # The normal approximation, solved for the noncentrality whose upper alpha point was found.
    z, excess = float(norm.isf(alpha)), found - freedom
    middle = excess + 2 * z**2
    root = np.sqrt(np.maximum(middle**2 - excess**2 + 2 * z**2 * freedom, 0.0))
    return np.maximum(middle - root, 0.0)


def _judge_column(
    column: DriftColumn, size: Floats, weight: float, note: str, columns: int, policy: DriftPolicy
) -> ColumnDrift:
    psi, chance, p, low = (float(value) for value in size)
    effect, level = psi - chance, "none"
    if effect >= policy.large and low >= policy.moderate:
        level = "large"
    elif effect >= policy.moderate and low > 0:
        level = "moderate"
    told = f"{column.name}: PSI {psi:.2f} ({chance:.2f} by chance, surely above {low:.2f}), {level}"
    reason = "; ".join((f"{told}, weight {weight:.0%}", *([note] if note else [])))
    return ColumnDrift(
        column.name, column.kind, psi, chance, low, min(1.0, p * columns), weight, level, reason
    )


def _find_usual(column: Column, kind: str) -> Usual:
    if kind != "number":
        return float("nan"), float("nan"), frozenset(column)
    side = np.asarray(column, dtype=float)
    null = np.isnan(side)
    return float(np.nanmedian(side)) if not null.all() else float("nan"), float(null.mean()), frozenset()


def _tell_change(kind: str, old: Usual, new: Usual, current: Column) -> str:
    if kind == "number":
        return f"median {old[0]:.4g} to {new[0]:.4g}, null {old[1]:.1%} to {new[1]:.1%}"
    unseen = [value is not None and value not in old[2] for value in current]
    return f"unseen categories {np.mean(unseen):.1%}"
