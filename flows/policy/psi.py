"""The population stability index with what chance alone gives of it."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc
from scipy.stats import norm

from flows.policy.bins import Codes

Floats = NDArray[np.float64]

PARTS = ("nulls", "unseen values")  # a column's last bin, and the one before it


def measure_psi(
    reference: Floats, current: Floats, starts: Codes, alpha: float, factor: float = 1.0
) -> Floats:
    """Return PSI, its expectation by chance, the p-value of no drift, and the effect's lower bound.

    Shape (4, columns): counts of all columns' bins stand in a row, each column's from its start on.
    Half a count is added to every bin, so that an empty one stays finite. Without drift the PSI
    follows (1/n + 1/m) times a chi-square with bins - 1 degrees of freedom (Yurdakul, Statistical
    Properties of Population Stability Index, 2018), whose mean is the expectation; with drift a
    noncentral one, which gives the bound at level 1 - alpha. A `factor` above 1 widens all chance.
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
    scale = factor * (1 / totals[0] + 1 / totals[1])
    freedom = np.maximum(bins - 1, 1)
    p = np.where(bins > 1, chdtrc(freedom, psi / scale), 1.0)
    low = np.where(p < alpha, scale * _bound_noncentrality(psi / scale, freedom, alpha), 0.0)
    return np.stack([psi, np.maximum(bins - 1, 0) * scale, p, low])


def split_off(counts: Floats, starts: Codes, place: int) -> Floats:
    """Return each column's rows outside one bin and in it, in turn; `place` counts from its last bin on."""
    ends = np.array([*starts[1:], counts.shape[-1]])
    apart = counts[..., ends - place]
    return np.stack([np.add.reduceat(counts, starts, axis=-1) - apart, apart], axis=-1).reshape(-1)


def measure_parts(old: Floats, new: Floats, starts: Codes, alpha: float, factor: float = 1.0) -> Floats:
    """Measure each column's whole PSI, then that of each of PARTS alone: shape (4, 3 columns).

    What a day's values may do hides a feed that goes null, or changes its unit; these alone do not.
    """
    pairs = 2 * np.arange(len(starts))
    parts = [
        measure_psi(split_off(old, starts, place), split_off(new, starts, place), pairs, alpha, factor)
        for place in range(1, len(PARTS) + 1)
    ]
    return np.concatenate([measure_psi(old, new, starts, alpha, factor), *parts], axis=1)


def _bound_noncentrality(found: Floats, freedom: Floats, alpha: float) -> Floats:
    # The normal approximation, solved for the noncentrality whose upper alpha point was found.
    z, excess = float(norm.isf(alpha)), found - freedom
    middle = excess + 2 * z**2
    root = np.sqrt(np.maximum(middle**2 - excess**2 + 2 * z**2 * freedom, 0.0))
    return np.maximum(middle - root, 0.0)
