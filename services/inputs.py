"""What a model takes, as training saw it: gathers its inputs, finds each that it does not know. Pure.

Made once a version from its contract; a request's check costs a few microseconds. What only depends on the
values that the store holds of a key is found once, and remembered for as long as both are there: the version
and these values. What is asked together is checked together, a column at a time.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import contains, itemgetter
from typing import Any, NamedTuple

import msgspec

from feature_repo.contract import Problem
from feature_repo.freshness import OnlineVector
from services.remembered import Remembered

ENOUGH = 0.5  # share of store-backed features that may be missing or expired before a model is not asked
# Of the range seen in training, by which a number may lie outside it unflagged: a season goes so far.
MARGIN = 0.5


@dataclass(frozen=True, slots=True)
class Flag:
    """One input that the model does not know.

    kind  missing (no value, where there should be one), expired (got: its age in seconds), unseen (a
          category), out_of_range, or wrong_type: the model is asked with null instead
    """

    feature: str
    kind: str
    got: str | float | None


class _Stored(NamedTuple):
    """What a contract makes of the values that the store holds of a key.

    whole    they are those that the model takes, all and no other
    starved  too many have no usable value
    fits     all that the model takes is known to it
    text     these as JSON, without the braces
    plain    all of this is so: nothing but the request is left to look at
    """

    whole: bool
    starved: bool
    fits: bool
    text: str
    plain: bool


class Taken(NamedTuple):
    """What a model is asked of one row: its inputs by name, what it does not know of them, these as JSON."""

    features: dict[str, Any]
    flags: tuple[Flag, ...]
    told: str


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
        # A value that the store holds as null was observed to be null; training may have seen none such.
        self._never_null = frozenset(f["name"] for f in features if f.get("null_share") == 0)
        self._nullable = self._stored - self._never_null
        self._check_asked, self._check_stored = self._build_check(asked), self._build_check(stored)
        self._fit_together = self._build_check_of_columns()
        self._remembered = Remembered[_Stored]()
        self._order = {name: place for place, name in enumerate(self.names)}

    @property
    def stored(self) -> frozenset[str]:
        """The names of those that come from the feature store."""
        return self._stored

    @classmethod
    def of(cls, problem: Problem) -> "Inputs":
        """Return a problem's inputs without what any training saw of them."""
        told = [{"name": f.name, "kind": f.kind, "source": f.source} for f in problem.features]
        return cls({"features": told})

    def take(
        self,
        rows: Sequence[Mapping[str, Any]],
        vectors: Sequence[OnlineVector],
        calendar: Collection[str] = (),
    ) -> list[Taken]:
        """Do for each row what `gather`, `find_flags` and `tell` do, for all together."""
        try:
            picked = [*map(self._pick_asked, rows)]
        except KeyError:
            picked = []
        if not (picked and self._fit_together([*zip(*picked, strict=True)])):
            return [self._take_alone(*one, calendar) for one in zip(rows, vectors, strict=True)]
        asked = [dict(zip(self._asked, one, strict=True)) for one in picked]
        texts = _encode_lines(asked).decode().split("\n")  # one each, and nothing after the last
        taken = []
        for row, vector, mine, text in zip(rows, vectors, asked, texts, strict=False):
            known = self._recall(vector)
            if known and known.plain:  # nearly always
                taken.append(Taken({**vector.values, **mine}, (), f"{{{known.text},{text[1:]}"))
            else:
                taken.append(self._take_alone(row, vector, calendar))
        return taken

    def _take_alone(
        self, row: Mapping[str, Any], vector: OnlineVector, calendar: Collection[str] = ()
    ) -> Taken:
        features = self.gather(row, vector)
        flags = self.find_flags(features, vector, calendar)
        return Taken(features, flags, self.tell(features, vector))

    def gather(self, row: Mapping[str, Any], vector: OnlineVector) -> dict[str, Any]:
        """Return the model's inputs by name: what the store holds, then what the request says."""
        held, known = vector.values, self._recall(vector)
        try:
            asked = self._pick_asked(row)
            if known.whole if known else held.keys() == self._stored:  # nearly always
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
        known = self._recall(vector)
        return known.starved if known else self._lacks(vector)

    def _lacks(self, vector: OnlineVector) -> bool:
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
        known = self._recall(vector)
        stored = known.fits if known else self._check_stored(features, vector)
        return stored and self._check_asked(features, vector)

    def tell(self, features: Mapping[str, Any], vector: OnlineVector) -> str:
        """Return the inputs that `gather` made as JSON; those of the store are put in words once."""
        known = self._recall(vector)
        if not known or not known.plain:
            return _encode(features).decode()
        told = _encode(dict(zip(self._asked, self._pick_asked(features), strict=True))).decode()
        return f"{{{known.text},{told[1:]}"

    def _recall(self, vector: OnlineVector) -> _Stored | None:
        memo = vector.memo
        if memo is None:
            return None
        known = self._remembered.get(memo)
        if known is None:
            whole, values = vector.values.keys() == self._stored, vector.values
            text = _encode(values)[1:-1].decode() if whole else ""
            fits = self._check_stored(values, vector)
            plain = bool(fits and text and self._asked)
            made = _Stored(whole, self._lacks(vector), fits, text, plain)
            known = self._remembered.keep(memo, made)
        return known

    def _build_check(self, names: Collection[str]) -> Callable[[Mapping[str, Any], OnlineVector], bool]:
        """Return what says whether all of some inputs are there and known; False: take a closer look."""
        numbers = tuple(one for one in self._numbers if one[0] in names)
        seen = tuple(_AnyText() if seen is None else seen for name, seen in self._categories if name in names)
        pick_numbers = _build_pick([name for name, *_ in numbers])
        pick_categories = _build_pick([name for name, _ in self._categories if name in names])
        nullable = self._nullable  # and not self: who is part of a ring is not freed when let go

        def check(features: Mapping[str, Any], vector: OnlineVector) -> bool:
            if vector.missing or vector.expired:
                return False
            try:
                for value, (name, low, high) in zip(pick_numbers(features), numbers, strict=True):
                    if value is None:
                        if name not in nullable or name not in vector.values:
                            return False
                    elif not low <= value <= high:
                        return False
                return all(map(contains, seen, pick_categories(features)))
            except (KeyError, TypeError):  # what is not there, or no number
                return False

        return check

    def _build_check_of_columns(self) -> Callable[[Sequence[Sequence[Any]]], bool]:
        """Return what says whether all of the request's inputs of many rows are there and known."""
        place = {name: i for i, name in enumerate(self._asked)}
        numbers = [(place[name], low, high) for name, low, high in self._numbers if name in place]
        seen = [(place[name], known) for name, known in self._categories if name in place]
        some = [(i, _AnyText() if known is None else known) for i, known in seen]

        def check(columns: Sequence[Sequence[Any]]) -> bool:
            try:
                # Whole lists: a generator takes twice as long, and nearly always all are looked at.
                return all(
                    False not in [low <= value <= high for value in columns[i]] for i, low, high in numbers
                ) and all(False not in [value in known for value in columns[i]] for i, known in some)
            except TypeError:  # what is no number
                return False

        return check

    def _note_null(self, name: str, vector: OnlineVector, flags: list[Flag]) -> None:
        age = vector.expired.get(name)
        if age is not None and name in self._stored:
            flags.append(Flag(name, "expired", round(age, 3)))
        elif name not in vector.values or name in vector.missing or name in self._never_null:
            flags.append(Flag(name, "missing", None))


_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


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
    if 0 <= low <= 1:  # of a count that was at least 1, none is the next
        return 0.0, high + margin
    # What was never negative is not widened to nothing: a distance in thousands would be within it.
    return low - (min(margin, MARGIN * low) if low >= 0 else margin), high + margin


def _read_seen(feature: Mapping[str, Any]) -> frozenset[str] | None:
    seen = feature.get("categories")
    return None if seen is None else frozenset(seen)


def _show(value: object) -> str:
    return repr(value)[:100]
