"""Scores a logistic regression on numbers, each filled, scaled and clipped on its own: a sum over them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.freshness import Memo
from services.remembered import Remembered

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Terms:
    """What each of n numbers adds to the log odds: `weights` * clip(x * `scale` + `shift`), (n,) each.

    fill         stands for a null, which adds `absent` besides
    least, most  what is scaled is kept between these
    """

    fill: Floats
    scale: Floats
    shift: Floats
    least: Floats
    most: Floats
    weights: Floats
    absent: Floats

    def take(self, places: Sequence[int]) -> "Terms":
        """Return the terms of some of the numbers."""
        return Terms(**{one.name: getattr(self, one.name)[list(places)] for one in fields(self)})

    def add_up(self, values: Floats) -> Floats:
        """Return the sum of what a row's numbers add, (rows, n) to (rows,)."""
        empty = np.isnan(values)
        scaled = np.where(empty, self.fill, values) * self.scale + self.shift
        kept = np.minimum(np.maximum(scaled, self.least), self.most)
        # Each row by itself, to the same bit however many there are: a product of matrices would not.
        total: Floats = (kept * self.weights + empty * self.absent).sum(axis=1)
        return total


class Line:
    """A fitted logistic regression of two classes.

    names  the numbers that it takes, in order; `base` is the log odds without any
    kept   those of them that stand still over many rows: their sum is remembered
    """

    def __init__(self, names: Sequence[str], terms: Terms, base: float, kept: Collection[str] = ()) -> None:
        self._base = base
        self._kept = _Part(names, terms, [i for i, name in enumerate(names) if name in kept])
        self._rest = _Part(names, terms, [i for i, name in enumerate(names) if name not in kept])
        self._remembers = bool(self._kept and self._rest)
        self._remembered = Remembered[float]()

    def score(self, rows: Rows, memos: Sequence[Memo | None] = ()) -> Floats:
        """Return the probability of the second class for each row of named numbers, None for null."""
        if self._remembers and any(memo is not None for memo in memos):
            kept = np.array([self._recall(*one) for one in zip(rows, memos, strict=True)])
        else:
            kept = self._kept.add_up(rows)
        odds = self._base + kept + self._rest.add_up(rows)
        probabilities: Floats = np.exp(-np.logaddexp(0.0, -odds))  # overflows nowhere
        return probabilities

    def _recall(self, row: Mapping[str, Any], memo: Memo | None) -> float:
        found = None if memo is None else self._remembered.get(memo)
        if found is not None:
            return found
        made = float(self._kept.add_up([row])[0])
        return made if memo is None else self._remembered.keep(memo, made)


def read_line(steps: Sequence[Any], names: Sequence[str], kept: Collection[str] = ()) -> Line | None:
    """Return what an imputer, a scaler to a range and a logistic regression come to; None for other steps."""
    if [type(step).__name__ for step in steps] != ["SimpleImputer", "MinMaxScaler", "LogisticRegression"]:
        return None
    imputer, scaler, logistic = steps
    fill = np.asarray(imputer.statistics_)
    marked = list(imputer.indicator_.features_) if imputer.add_indicator else []
    count = len(names)
    taken = logistic.coef_.shape == (1, count + len(marked)) and len(logistic.classes_) == 2
    if not taken or fill.dtype != np.float64 or not np.isfinite(fill).all():  # an empty column is dropped
        return None
    weights = logistic.coef_[0]
    marks = np.array([[0.0], [1.0]]) * scaler.scale_[count:] + scaler.min_[count:]
    low, high = scaler.feature_range if scaler.clip else (-np.inf, np.inf)
    present, missing = np.clip(marks, low, high) * weights[count:]
    absent = np.zeros(count)
    absent[marked] = missing - present
    own = (scaler.scale_[:count], scaler.min_[:count], np.full(count, low), np.full(count, high))
    terms = Terms(fill, *own, weights[:count], absent)
    return Line(names, terms, float(logistic.intercept_[0] + present.sum()), kept)


class _Part:
    """Some of a line's numbers, taken out of rows."""

    def __init__(self, names: Sequence[str], terms: Terms, places: Sequence[int]) -> None:
        self._names = [names[place] for place in places]
        self._terms = terms.take(places)
        self._pick = itemgetter(*self._names) if len(self._names) > 1 else None

    def __len__(self) -> int:
        return len(self._names)

    def add_up(self, rows: Rows) -> Floats:
        if not self._names:
            return np.zeros(len(rows))
        pick, first = self._pick, self._names[0]
        values = [pick(row) for row in rows] if pick else [(row[first],) for row in rows]
        return self._terms.add_up(np.array(values, dtype=np.float64))
