"""A reference that turns with the calendar: its rows weighed to the window's own mix of weekdays and hours.

A window of a Saturday, or of evenings, is then compared with the reference's Saturdays or evenings
(post-stratification: Holt and Smith, 1979). The calendar's own columns are the strata: how the mix of a whole
window differs from the reference's is judged apart, since turning hides it from every column.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flows.policy.bins import Bins, Codes, Column, fit_bins

MOST = 7  # strata a calendar column: weekdays by value, hours in about equal shares of the rows
MIN_MATCHED = 0.5  # of the window's rows; with fewer the reference cannot be turned


@dataclass(frozen=True)
class Calendar:
    """How rows fall into strata."""

    bins: Mapping[str, Bins]

    @property
    def count(self) -> int:
        """Number of strata, those that no row falls in included."""
        return int(np.prod([bins.count for bins in self.bins.values()], dtype=int))

    def encode(self, columns: Mapping[str, Column], rows: int) -> Codes:
        """Return each row's stratum, shape (n,)."""
        code = np.zeros(rows, dtype=np.intp)
        for name, bins in self.bins.items():
            code = code * bins.count + bins.encode(columns[name])
        return code

    @cached_property
    def starts(self) -> Codes:
        """Where each calendar column's bins begin in what `split` returns."""
        return np.cumsum([0, *(bins.count for bins in self.bins.values())][:-1]).astype(np.intp)

    def split(self, held: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn rows by stratum into rows by each calendar column's own bins, one column after the other."""
        grid = held.reshape([bins.count for bins in self.bins.values()])
        axes = range(grid.ndim)
        sides = [grid.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
        return np.concatenate(sides) if sides else np.zeros(0)


@dataclass(frozen=True)
class Turned:
    """A weight for each stratum's rows, which strata are compared, the reference's worth in rows, and why."""

    weights: NDArray[np.float64]
    kept: NDArray[np.bool_]
    rows: float
    matched: float
    reason: str


def fit_calendar(reference: Mapping[str, Column], names: frozenset[str]) -> Calendar:
    """Draw the strata from the reference's calendar columns; without any, all rows are one stratum."""
    held = sorted(names & set(reference))
    return Calendar({name: fit_bins(reference[name], "number", MOST, min_share=0.0) for name in held})


def turn_reference(held: NDArray[np.float64], asked: NDArray[np.float64]) -> Turned:
    """Weigh the reference to the window's mix, by rows a stratum on both sides.

    Strata that the reference lacks are compared on neither side. The worth in rows is Kish's effective
    sample size: weights cost certainty, and the bound knows.
    """
    matched = float(asked[held > 0].sum() / max(asked.sum(), 1.0))
    if matched < MIN_MATCHED:
        told = f"the reference has no like of {1 - matched:.0%} of the window's hours: compared as it stands"
        return Turned(np.ones(len(held)), np.ones(len(held), dtype=bool), float(held.sum()), matched, told)
    weights = np.divide(asked, held, out=np.zeros(len(held)), where=held > 0)
    worth = float((weights * held).sum() ** 2 / (weights**2 * held).sum())
    told = (
        ""
        if matched == 1
        else f"{1 - matched:.1%} of the window's rows are of hours the reference lacks: left out"
    )
    return Turned(weights, held > 0, worth, matched, told)
