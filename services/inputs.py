"""What a model takes, as training saw it: gathers its inputs, finds each that it does not know. Pure.

Made once a version from its contract; a request's check costs a few microseconds.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import contains, itemgetter
from typing import Any

from feature_repo.contract import Problem
from feature_repo.freshness import OnlineVector

ENOUGH = 0.5  # share of store-backed features that may be missing or expired before a model is not asked
MARGIN = 0.1  # of the range seen in training, by which a number may lie outside it unflagged


@dataclass(frozen=True, slots=True)
class Flag:
    """One input that the model does not know.

    kind  missing (no value, where there should be one), expired (got: its age in seconds), unseen (a
          category), out_of_range, or wrong_type: the model is asked with null instead
    """

    feature: str
    kind: str
    got: str | float | None


class Inputs:
    """The inputs of one contract, in its order."""

    def __init__(self, contract: Mapping[str, Any]) -> None:
        features = contract["features"]
        self.names = tuple(f["name"] for f in features)
        asked = tuple(f["name"] for f in features if f["source"] == "request")
        stored = tuple(f["name"] for f in features if f["source"] != "request")
        self._asked, self._stored_names, self._stored = asked, stored, frozenset(stored)
        self._pick_asked, self._pick_stored = _build_pick(asked), _build_pick(stored)
        self._numbers = tuple((f["name"], *_read_range(f)) for f in features if f["kind"] != "category")
        self._categories = tuple((f["name"], _read_seen(f)) for f in features if f["kind"] == "category")
        self._pick_numbers = _build_pick([name for name, *_ in self._numbers])
        self._pick_categories = _build_pick([name for name, _ in self._categories])
        self._seen = tuple(_AnyText() if seen is None else seen for _, seen in self._categories)
        # A value that the store holds as null was observed to be null; training may have seen none such.
        self._never_null = frozenset(f["name"] for f in features if f.get("null_share") == 0)
        self._nullable = self._stored - self._never_null
        self._order = {name: place for place, name in enumerate(self.names)}

    @classmethod
    def of(cls, problem: Problem) -> "Inputs":
        """Return a problem's inputs without what any training saw of them."""
        told = [{"name": f.name, "kind": f.kind, "source": f.source} for f in problem.features]
        return cls({"features": told})

    def gather(self, row: Mapping[str, Any], vector: OnlineVector) -> dict[str, Any]:
        """Return the model's inputs by name: what the store holds, then what the request says."""
        held = vector.values
        try:
            asked = self._pick_asked(row)
            if held.keys() == self._stored:  # nearly always: a model takes all that there is
                gathered = {**held}
                gathered.update(zip(self._asked, asked, strict=True))
                return gathered
            stored = self._pick_stored(held)
        except KeyError:
            asked = tuple(map(row.get, self._asked))
            stored = tuple(map(held.get, self._stored_names))
        return dict(zip((*self._stored_names, *self._asked), (*stored, *asked), strict=True))

    def is_starved(self, vector: OnlineVector) -> bool:
        """Return whether too many of the store-backed features have no usable value."""
        if not vector.missing and not vector.expired and self._stored <= vector.values.keys():
            return False
        gone = {*vector.missing, *vector.expired}
        lacking = sum(name in gone or name not in vector.values for name in self._stored)
        return lacking > ENOUGH * len(self._stored)

    def find_flags(
        self, features: dict[str, Any], vector: OnlineVector, calendar: Collection[str] = ()
    ) -> tuple[Flag, ...]:
        """Return every input that the model does not know; one of a wrong type is made null in `features`.

        calendar  features that leave the range seen in training by construction, as time goes by
        """
        if self._fits(features, vector):  # nearly always
            return ()
        flags: list[Flag] = []
        for name, low, high in self._numbers:
            value = features[name]
            if value is None:
                self._note_null(name, vector, flags)
            elif not isinstance(value, (float, int)):
                flags.append(Flag(name, "wrong_type", _show(value)))
                features[name] = None
            elif not low <= value <= high and name not in calendar:
                flags.append(Flag(name, "out_of_range", value if math.isfinite(value) else _show(value)))
        for name, seen in self._categories:
            value = features[name]
            if value is None:
                self._note_null(name, vector, flags)
            elif not isinstance(value, str):
                flags.append(Flag(name, "wrong_type", _show(value)))
                features[name] = None
            elif seen is not None and value not in seen:
                flags.append(Flag(name, "unseen", value))
        if len(flags) > 1:
            flags.sort(key=lambda flag: self._order[flag.feature])
        return tuple(flags)

    def _fits(self, features: Mapping[str, Any], vector: OnlineVector) -> bool:
        """Return whether all is there and known; False if that takes a closer look."""
        if vector.missing or vector.expired:
            return False
        try:
            numbers = self._pick_numbers(features)
            for value, (name, low, high) in zip(numbers, self._numbers, strict=True):
                if value is None:
                    if name not in self._nullable or name not in vector.values:
                        return False
                elif not low <= value <= high:
                    return False
            return all(map(contains, self._seen, self._pick_categories(features)))
        except TypeError:  # what is no number
            return False

    def _note_null(self, name: str, vector: OnlineVector, flags: list[Flag]) -> None:
        age = vector.expired.get(name)
        if age is not None and name in self._stored:
            flags.append(Flag(name, "expired", round(age, 3)))
        elif name not in vector.values or name in vector.missing or name in self._never_null:
            flags.append(Flag(name, "missing", None))


class _AnyText:
    """The categories of a feature of which training saw none in particular."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str)


def _build_pick(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes the values of some names out of a mapping. Raises KeyError."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _read_range(feature: Mapping[str, Any]) -> tuple[float, float]:
    low, high = feature.get("min"), feature.get("max")
    if low is None or high is None:
        return -math.inf, math.inf
    margin = MARGIN * (high - low)
    # What was never negative is not widened to nothing: a distance in thousands would be within it.
    return low - (min(margin, MARGIN * low) if low >= 0 else margin), high + margin


def _read_seen(feature: Mapping[str, Any]) -> frozenset[str] | None:
    seen = feature.get("categories")
    return None if seen is None else frozenset(seen)


def _show(value: object) -> str:
    return repr(value)[:100]
