"""How far the reference's own days and weeks lie from the rest of it: what a window may differ by, unchanged.

Rows of one day share its weather, so a day is one draw however many rows it has, and the chance of rows
alone is no bound for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma, norm, t

from flows.policy.bins import Codes
from flows.policy.calendar import Calendar, turn_reference
from flows.policy.psi import measure_parts, measure_psi

Floats = NDArray[np.float64]

WEEK = 7
LENGTHS = (1, WEEK)  # days a block
MIN_BLOCKS = 5  # days, or weeks: fewer do not show how restless they are
USUAL = 0.95  # of the reference's blocks are ordinary for certain
FEW = 3.0  # chance counts so many times where the reference holds too few blocks to tell


@dataclass(frozen=True)
class Unrest:
    """By days a block, the bounds of all columns, then of their parts, and of the calendar's columns.

    A length of which the reference has too few blocks is absent.
    """

    known: bool = False  # whether the reference's days are known at all
    columns: Mapping[int, Floats] = field(default_factory=dict)
    mixes: Mapping[int, Floats] = field(default_factory=dict)

    @property
    def factor(self) -> float:
        """What chance is multiplied by: more than 1 where days are known, and too few to compare."""
        return FEW if self.known and not self.columns else 1.0

    def find(self, length: float, count: int) -> Floats:
        """Return the columns' bounds for a window of so many days, of the longest blocks that fit in it.

        A window lies no farther off than its parts do on average, since the PSI is convex: where the
        reference has too few weeks, the bound of its days holds for a week too.
        """
        fitting = [days for days in self.columns if days <= max(length, 1.0)]
        return self.columns[max(fitting)] if fitting else np.zeros(count)

    def find_mix(self, length: float, count: int) -> tuple[Floats, float]:
        """Return the calendar columns' bounds and the factor of chance.

        Whole weeks have the same mix by construction, unlike days: with too few of them to compare,
        chance counted FEW times and the customary limits are room enough.
        """
        whole = length >= WEEK and length % WEEK == 0
        if not whole:
            return self.mixes.get(1, np.zeros(count)), 1.0
        return (self.mixes[WEEK], 1.0) if WEEK in self.mixes else (np.zeros(count), FEW)

    def tell(self) -> str:
        """Say in words what the bound could not be drawn from."""
        if not self.known or self.columns:
            return ""
        return f"the reference holds under {MIN_BLOCKS} days to compare: chance is counted {FEW:g} times"


UNKNOWN = Unrest()


def measure_unrest(
    counts: Floats,
    held: Floats,
    codes: Codes,
    strata: Codes,
    days: Codes,
    starts: Codes,
    calendar: Calendar,
    min_rows: int,
    alpha: float,
) -> Unrest:
    """Hold each block of days against the rest of the reference; all bounds of a block at once by 1 - alpha.

    `counts` are the whole reference's by stratum and bin, `held` by stratum, `codes` and `strata` its rows'.
    """
    columns: dict[int, Floats] = {}
    mixes: dict[int, Floats] = {}
    for length in LENGTHS:
        block = (days - days.min()) // length
        parts = _split_rows(block)
        # A block cut off by the reference's ends is none: a few hours are no day.
        least = max(min_rows, float(np.median([len(rows) for rows in parts])) / 2)
        found = [
            _compare(counts, held, codes[rows], strata[rows], starts, calendar)
            for rows in parts
            if least <= len(rows) <= len(block) - min_rows
        ]
        if len(found) < MIN_BLOCKS:
            continue
        sizes, splits = (np.stack(part) for part in zip(*found, strict=True))
        columns[length] = bound_ordinary(sizes[:, 0], sizes[:, 1], alpha / sizes.shape[2])
        if calendar.bins:
            mixes[length] = bound_ordinary(splits[:, 0], splits[:, 1], alpha / splits.shape[2])
    return Unrest(True, columns, mixes)


def bound_ordinary(excess: Floats, chance: Floats, alpha: float) -> Floats:
    """Return what an ordinary block surely stays under, each column at level 1 - alpha.

    Of each block, (blocks, columns): the PSI beyond chance, and the variance that chance gives it. Shares
    that vary from block to block give a PSI that is a sum of squares: about a gamma with its mean and
    variance (Satterthwaite, Biometrics Bulletin 2, 1946), never more skewed than with one degree of
    freedom. Few blocks know their spread badly: it is widened as Student's t is. What lies above USUAL of
    the blocks is pulled in to there: a feed's one dead day in the reference must not hide the next.
    """
    blocks = len(excess)
    excess = np.minimum(excess, np.quantile(excess, USUAL, axis=0, method="lower"))
    unsure = float(t.isf(alpha, blocks - 1) / norm.isf(alpha) * np.sqrt(1 + 1 / blocks))
    wide = unsure * np.sqrt(np.maximum(excess.var(axis=0, ddof=1) - chance.mean(axis=0), 0.0))
    mean = np.maximum(np.maximum(excess.mean(axis=0), 0.0), wide * np.sqrt(0.5))
    moves = wide > 0
    safe_mean, safe_wide = np.where(moves, mean, 1.0), np.where(moves, wide, 1.0)
    high = gamma.isf(alpha, (safe_mean / safe_wide) ** 2, scale=safe_wide**2 / safe_mean)
    return np.asarray(np.where(moves, high, mean), dtype=float)


def count_strata(codes: Codes, strata: Codes, count: int, width: int) -> Floats:
    """Count rows by stratum and bin, (strata, bins of all columns)."""
    flat = (strata[:, None] * width + codes).ravel()
    return np.bincount(flat, minlength=count * width).reshape(count, width).astype(float)


def _compare(
    counts: Floats, held: Floats, codes: Codes, strata: Codes, starts: Codes, calendar: Calendar
) -> tuple[Floats, Floats]:
    own = count_strata(codes, strata, *counts.shape)
    asked = np.bincount(strata, minlength=len(held)).astype(float)
    turned = turn_reference(held - asked, asked)
    old = turned.weights @ (counts - own)
    old *= turned.rows * len(starts) / old.sum()
    new = own[turned.kept].sum(axis=0)
    found = _take_chance(
        measure_parts(old, new, starts, 0.5), len(starts) / old.sum() + len(starts) / new.sum()
    )
    if not calendar.bins:
        return found, np.zeros((2, 0))
    mix = measure_psi(calendar.split(held - asked), calendar.split(asked), calendar.starts, 0.5)
    return found, _take_chance(mix, 1 / (held - asked).sum() + 1 / asked.sum())


def _take_chance(sizes: Floats, scale: float) -> Floats:
    # The noncentral chi-square's variance; its freedom is the PSI by chance over the scale.
    psi, by_chance, _, _ = sizes
    excess = psi - by_chance
    return np.stack([excess, 2 * by_chance * scale + 4 * np.maximum(excess, 0.0) * scale])


def _split_rows(block: Codes) -> list[Codes]:
    order = np.argsort(block, kind="stable")
    ends = np.flatnonzero(np.diff(block[order])) + 1
    return np.split(order, ends)
