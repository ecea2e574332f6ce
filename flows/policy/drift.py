"""Input drift as an effect size that chance cannot explain: which columns moved, how far, and so what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

Column = NDArray[np.float64] | NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """When a column counts as drifted.

    moderate, large  0.10 and 0.25 are the customary reading of a PSI in credit scoring (Siddiqi,
                     Credit Risk Scorecards, 2006): below 0.10 nothing, above 0.25 act. They apply to
                     the PSI in excess of what chance alone gives at this sample size.
    alpha            chance must also be refuted at 5% after Benjamini-Hochberg over all columns.
    min_rows         fewer rows leave a decile with under 20: too few to speak of a share.
    bins             deciles, as the customary limits assume.
    min_share        categories under 1% of the reference share one bin with the unseen ones: their
                     own counts would be mostly noise.
    """

    moderate: float = 0.10
    large: float = 0.25
    alpha: float = 0.05
    min_rows: int = 200
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
    """How far one column moved: `effect` is the PSI in excess of `by_chance`; weights sum to 1."""

    name: str
    kind: str
    psi: float
    by_chance: float
    p_value: float
    weight: float
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


def judge_drift(
    reference: Mapping[str, Column],
    current: Mapping[str, Column],
    columns: Sequence[DriftColumn],
    policy: DriftPolicy = DriftPolicy(),
) -> DriftVerdict:
    """Compare each column of `current` with `reference`: 1-d arrays, null as NaN or None."""
    rows = min((len(current[c.name]) for c in columns), default=0)
    held = min((len(reference[c.name]) for c in columns), default=0)
    if min(rows, held) < policy.min_rows:
        reason = f"no drift verdict: {rows} rows against {held} of reference, {policy.min_rows} needed"
        return DriftVerdict(False, (), 0.0, rows, held, (reason,))
    weights = _weigh(columns)
    counts = [count_bins(reference[c.name], current[c.name], c.kind, policy) for c in columns]
    sizes = [measure_psi(*pair) for pair in counts]
    adjusted = adjust_p_values([p for _, _, p in sizes])
    drifts = tuple(
        _judge_column(column, (*size[:2], p), weight, reference, current, policy)
        for column, size, p, weight in zip(columns, sizes, adjusted, weights, strict=True)
    )
    far = sorted((d for d in drifts if d.level == "large"), key=lambda d: -d.weight)
    share = float(sum(d.weight for d in far))
    head = f"{len(far)} of {len(drifts)} columns moved far; they hold {share:.0%} of the model's importance"
    return DriftVerdict(True, drifts, share, rows, held, (head, *(d.reason for d in far)))


def count_bins(
    reference: Column, current: Column, kind: str, policy: DriftPolicy = DriftPolicy()
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count both sides in bins drawn from the reference alone; nulls have a bin of their own.

    A number with at most `bins` distinct values is binned by value, since its quantiles coincide.
    """
    null: tuple[NDArray[np.bool_], ...]
    if kind == "number":
        old, new = (np.asarray(side, dtype=float) for side in (reference, current))
        null = (np.isnan(old), np.isnan(new))
        known = old[~null[0]]
        values, seen = np.unique(known, return_counts=True)
        if len(values) > policy.bins:
            edges = np.unique(np.quantile(known, np.linspace(0, 1, policy.bins + 1)[1:-1]))
            codes = tuple(np.searchsorted(edges, side) for side in (old, new))
            return _tally(codes, null, len(edges) + 1)
    else:
        old, new = (np.asarray(side, dtype=object) for side in (reference, current))
        null = tuple(np.array([value is None for value in side], dtype=bool) for side in (old, new))
        values, seen = np.unique(old[~null[0]].astype(str), return_counts=True)
        old, new = (np.where(gap, "", side).astype(str) for gap, side in zip(null, (old, new), strict=True))
    kept = values[seen >= policy.min_share * len(old)]
    return _tally(tuple(_code(side, kept) for side in (old, new)), null, len(kept) + 1)


def measure_psi(reference: NDArray[np.float64], current: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the PSI of two count vectors, its expectation by chance, and the p-value of no drift.

    Half a count is added to every bin, so that an empty one stays finite. Without drift the PSI
    follows (1/n + 1/m) times a chi-square with bins - 1 degrees of freedom (Yurdakul, Statistical
    Properties of Population Stability Index, 2018), whose mean is the expectation returned.
    """
    used = (reference + current) > 0
    old, new = reference[used], current[used]
    if len(old) < 2:
        return 0.0, 0.0, 1.0
    p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (old, new))
    psi = float(np.sum((q - p) * np.log(q / p)))
    scale = 1 / old.sum() + 1 / new.sum()
    return psi, float((len(old) - 1) * scale), float(chdtrc(len(old) - 1, psi / scale))


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Benjamini and Hochberg, 1995), in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, p[order] * len(p) / ranks))
    return [float(value) for value in adjusted]


def _weigh(columns: Sequence[DriftColumn]) -> list[float]:
    raw = np.array([max(0.0, c.importance or 0.0) for c in columns])
    # Without any importance every column counts alike: blind watching beats no watching.
    even = raw if raw.sum() > 0 else np.ones(len(columns))
    return [float(w) for w in even / even.sum()]


def _judge_column(
    column: DriftColumn,
    size: tuple[float, float, float],
    weight: float,
    reference: Mapping[str, Column],
    current: Mapping[str, Column],
    policy: DriftPolicy,
) -> ColumnDrift:
    psi, chance, p = size
    effect = psi - chance
    far = "large" if effect >= policy.large else "moderate" if effect >= policy.moderate else "none"
    level = far if p < policy.alpha else "none"
    moved = _describe(reference[column.name], current[column.name], column.kind)
    reason = f"{column.name}: PSI {psi:.2f} ({chance:.2f} by chance), {level}, weight {weight:.0%}; {moved}"
    return ColumnDrift(column.name, column.kind, psi, chance, p, weight, level, reason)


def _tally(
    codes: tuple[NDArray[np.intp], ...], null: tuple[NDArray[np.bool_], ...], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    old, new = (
        np.bincount(np.where(gap, bins, code), minlength=bins + 1).astype(float)
        for code, gap in zip(codes, null, strict=True)
    )
    return old, new


def _code(side: Column, kept: Column) -> NDArray[np.intp]:
    if not len(kept):
        return np.zeros(len(side), dtype=np.intp)
    place = np.minimum(np.searchsorted(kept, side), len(kept) - 1)
    return np.where(kept[place] == side, place, len(kept))


def _describe(reference: Column, current: Column, kind: str) -> str:
    if kind == "number":
        old, new = (np.asarray(side, dtype=float) for side in (reference, current))
        middle = [float(np.nanmedian(s)) if not np.isnan(s).all() else float("nan") for s in (old, new)]
        empty = [float(np.isnan(s).mean()) for s in (old, new)]
        return f"median {middle[0]:.4g} to {middle[1]:.4g}, null {empty[0]:.1%} to {empty[1]:.1%}"
    seen = {v for v in reference if v is not None}
    unseen = float(np.mean([v is not None and v not in seen for v in current]))
    return f"unseen categories {unseen:.1%}"
