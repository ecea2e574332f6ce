"""Bins for comparing distributions: drawn from the reference alone, nulls in one of their own."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64] | NDArray[np.object_]
Values = NDArray[Any]  # sorted or to be: numbers or texts
Codes = NDArray[np.intp]

BEYOND = 1.0  # of the width of all that the reference holds: what lies farther out is of another kind


@dataclass(frozen=True)
class Bins:
    """One column's bins: between `edges`, or one a value in `kept`, one for the rare.

    The last bin holds the nulls, the one before it what the reference has nothing like: a value that it never
    saw, or a number outside of `reach`. A number with few distinct values is binned by value, since its
    quantiles coincide.
    """

    kind: str  # "number" or "category"
    edges: NDArray[np.float64] | None
    kept: Values
    rare: Values
    reach: tuple[float, float] = (-math.inf, math.inf)

    @property
    def count(self) -> int:
        """Number of bins, that of the nulls included."""
        return len(self.kept) + 3 if self.edges is None else len(self.edges) + 3

    def encode(self, column: Column) -> Codes:
        """Return each value's bin, shape (n,)."""
        values, null = read_values(column, self.kind)
        if self.edges is not None:
            low, high = self.reach
            strange = (values < low) | (values > high)
            codes = np.where(strange, self.count - 2, np.searchsorted(self.edges, values))
        else:
            place, kept = _find(self.kept, values)
            unseen = np.where(_find(self.rare, values)[1], len(self.kept), len(self.kept) + 1)
            codes = np.where(kept, place, unseen)
        return np.where(null, self.count - 1, codes)


def fit_bins(reference: Column, kind: str, most: int = 10, min_share: float = 0.01) -> Bins:
    """Draw quantile bins for a number, one bin a value of at least `min_share` for anything else."""
    values, null = read_values(reference, kind)
    known, seen = np.unique(values[~null], return_counts=True)
    if kind == "number" and len(known) > most:
        cuts = np.quantile(values[~null], np.linspace(0, 1, most + 1)[1:-1])
        room = BEYOND * float(known[-1] - known[0])
        reach = float(known[0]) - room, float(known[-1]) + room
        return Bins(kind, np.unique(cuts), known[:0], known[:0], reach)
    common = seen >= min_share * len(values)
    return Bins(kind, None, known[common], known[~common])


def read_values(column: Column, kind: str) -> tuple[Values, NDArray[np.bool_]]:
    """Return values that can be sorted, and where they are null."""
    if kind == "number":
        numbers = np.asarray(column, dtype=float)
        return numbers, np.isnan(numbers)
    things = np.asarray(column, dtype=object)
    null = np.array([thing is None for thing in things], dtype=bool)
    return np.where(null, "", things).astype(str), null


def _find(known: Values, values: Values) -> tuple[Codes, NDArray[np.bool_]]:
    if not len(known):
        return np.zeros(len(values), dtype=np.intp), np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return place, np.asarray(known[place] == values, dtype=bool)
