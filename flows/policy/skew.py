"""Skew: are the values that answers used those that their features have, and if not, why? Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

MAX_LACKING = 0.05  # of a feature's values, withheld by the answers though the lake has them
MIN_SHARE = 0.8  # of the wrong values that a cause must explain; what chance explains is mostly far less
EXAMPLES = 3
NAMED = 5  # features that one reason names
# Causes, the surest first: of two that explain the same values the first is named.
CAUSES = (
    "used although flagged",
    "type",
    "missing online",
    "expiry",
    "null told as a value",
    "late data",
    "spelling",
    "time zone",
    "from after the request",
    "window",
    "stale store",
    "units",
    "another column",
    "another key",
    "definition",
)


@dataclass(frozen=True, slots=True)
class Column:
    """One feature, answer by answer; numbers are Float64, no value is null.

    told      as journalled
    joined    the newest value at the decision, by the point-in-time join
    computed  the same, computed again from raw rows
    withheld  the answer itself says that the value was missing or expired
    miscast   a number that was journalled as something else; `told` is null there
    absent    not in the answer, and the answer's model does not take the feature
    """

    name: str
    told: pl.Series
    joined: pl.Series
    computed: pl.Series
    withheld: pl.Series
    miscast: pl.Series
    absent: pl.Series


@dataclass(frozen=True, slots=True)
class Alternative:
    """Values that would have been told if that cause were at work: one, or a list, for each wrong value.

    against  where this side of the column is what was told as well, the cause explains nothing
    logged   it is no guess: a log says that these were the values there
    """

    cause: str
    words: str
    values: pl.Series
    against: Literal["joined", "computed"] = "joined"
    logged: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """Why values are wrong: one of CAUSES, and the share of the wrong values that it explains."""

    name: str
    words: str
    share: float


@dataclass(frozen=True, slots=True)
class FeatureSkew:
    """One feature's count.

    asked     answers that should have used it
    withheld  values that the answers said were missing or expired; not among the compared
    lacking   those of them that the lake has a usable value for now
    worst     greatest difference of two numbers
    """

    name: str
    asked: int
    compared: int
    mismatched: int
    withheld: int
    lacking: int
    worst: float | None
    cause: Cause | None
    examples: tuple[str, ...]

    @property
    def rate(self) -> float | None:
        """Share of the compared values that are wrong; None if there are none to say it of."""
        return self.mismatched / self.compared if self.compared else None

    @property
    def lacking_share(self) -> float:
        """Share of its values that were withheld though the lake has them."""
        return self.lacking / self.asked if self.asked else 0.0


@dataclass(frozen=True, slots=True)
class SkewVerdict:
    """Every feature's count; `ok`: values were compared, none is wrong, and few were withheld needlessly."""

    features: tuple[FeatureSkew, ...]
    reasons: tuple[str, ...]

    @property
    def compared(self) -> int:
        """Values compared."""
        return sum(one.compared for one in self.features)

    @property
    def mismatched(self) -> int:
        """Values that are wrong."""
        return sum(one.mismatched for one in self.features)

    @property
    def ok(self) -> bool:
        """Whether there is something to go by, and nothing against it."""
        starved = any(one.lacking_share > MAX_LACKING for one in self.features)
        return bool(self.compared) and not self.mismatched and not starved


def find_wrong(column: Column) -> pl.Series:
    """Return for each answer whether the feature's value is wrong; a flagged one must not be used."""
    same = column.told.eq_missing(column.joined) & column.told.eq_missing(column.computed)
    used = column.told.is_not_null() | column.miscast
    wrong = (~column.withheld & (column.miscast | ~same)) | (column.withheld & used)
    return wrong & ~column.absent


def pick_expected(column: Column) -> pl.Series:
    """Return what should have been told: of the two, the one that was not."""
    agrees = column.told.eq_missing(column.joined) & ~column.miscast
    return column.joined.zip_with(~agrees, column.computed)


def judge_skew(columns: Sequence[Column], causes: Mapping[str, Cause]) -> SkewVerdict:
    """Count each feature; `causes` are those found for the features with wrong values."""
    features = tuple(_count(column, causes.get(column.name)) for column in columns)
    skewed = sorted((one for one in features if one.mismatched), key=lambda one: -(one.rate or 0.0))
    compared, wrong = (sum(getattr(one, name) for one in features) for name in ("compared", "mismatched"))
    head = f"{wrong:,} of {compared:,} values are not what their features have"
    withheld, lacking = (sum(getattr(one, name) for one in features) for name in ("withheld", "lacking"))
    told = f"{withheld:,} were withheld as missing or expired; the lake has a value for {lacking:,} of them"
    starved = [one for one in features if one.lacking_share > MAX_LACKING]
    return SkewVerdict(features, (head, *map(_describe, skewed), *_tell_starved(starved), told))


def explain(column: Column, alternatives: Sequence[Alternative]) -> Cause:
    """Return the likeliest cause of wrong values; `column` and the alternatives hold those alone."""
    expected = pick_expected(column)
    guesses = [*_find_plain(column, expected), *_find_casts(column.told, expected)]
    guesses += _find_units(column.told, expected)
    guesses += [_match(column, one) for one in alternatives if not one.logged]
    logged = [_match(column, one) for one in alternatives if one.logged]
    ordered = [*logged, *sorted(guesses, key=lambda one: CAUSES.index(one.name))]
    best = max(ordered, key=lambda one: round(one.share, 6))
    if best.share >= MIN_SHARE:
        return best
    told = f"; of what is known, {best.name} explains {best.share:.0%}" if best.share else ""
    return Cause("definition", f"computed in another way than the feature is defined{told}", 1 - best.share)


def _match(column: Column, one: Alternative) -> Cause:
    told = column.told
    differs = ~told.eq_missing(getattr(column, one.against)) & ~column.miscast
    if one.values.dtype == pl.List:
        pairs = pl.DataFrame({"told": told, "any": one.values})
        held = pairs.select(pl.col("any").list.contains(pl.col("told"))).to_series()
        return Cause(one.cause, one.words, _share(held.fill_null(value=False) & told.is_not_null() & differs))
    return Cause(one.cause, one.words, _share(told.eq_missing(one.values) & differs))


def _find_plain(column: Column, expected: pl.Series) -> list[Cause]:
    told, lacks = column.told, column.told.is_null() & ~column.miscast
    guessed = expected.is_null() & told.is_not_null()
    constant = told.filter(guessed).n_unique() == 1
    zero = told.dtype.is_numeric() and bool((told.filter(guessed) == 0).all())
    words = "no value is told as " + (
        "0" if zero else f"{told.filter(guessed).first()!r}" if constant else ""
    )
    joined, computed = told.eq_missing(column.joined), told.eq_missing(column.computed)
    found = [
        Cause(
            "used although flagged", "the answer says that it had no usable value", _share(column.withheld)
        ),
        Cause("type", "journalled as something else than a number", _share(column.miscast)),
        Cause("missing online", "no value, unflagged, where there is one", _share(lacks & ~column.withheld)),
        Cause(
            "definition",
            "the lake holds what was told, and raw rows give something else",
            _share(joined & ~computed & ~column.miscast),
        ),
        Cause(
            "definition",
            "raw rows give what was told, and the lake holds something else",
            _share(computed & ~joined & ~column.miscast),
        ),
    ]
    return [*found, Cause("null told as a value", words, _share(guessed))] if constant else found


def _find_casts(told: pl.Series, expected: pl.Series) -> list[Cause]:
    if not told.dtype.is_numeric():
        folded = (told.str.strip_chars().str.to_lowercase(), expected.str.strip_chars().str.to_lowercase())
        same = folded[0].eq_missing(folded[1])
        return [Cause("spelling", "another spelling of the same text", _share(same))]
    casts: dict[str, Callable[[pl.Series], pl.Series]] = {
        "32 bits": lambda s: s.cast(pl.Float32).cast(pl.Float64),
        "a whole number": lambda s: s.cast(pl.Int64, strict=False).cast(pl.Float64),
        "a whole number, rounded": lambda s: s.round(0),
        **{f"{n} decimals": lambda s, n=n: s.round(n) for n in (1, 2, 3, 4, 6)},  # type: ignore[misc]
    }
    known = told.is_not_null()
    return [
        Cause("type", f"equal after a cast to {name}", _share(told.eq_missing(cast(expected)) & known))
        for name, cast in casts.items()
    ]


def _find_units(told: pl.Series, expected: pl.Series) -> list[Cause]:
    """Look for one factor, one offset or one line that turns every expected value into the told one."""
    both = told.is_not_null() & expected.is_not_null()
    if not told.dtype.is_numeric() or both.sum() < 3:
        return []
    x, y = (side.filter(both).to_numpy() for side in (expected, told))
    share = _share(both)
    found = []
    if _is_constant(y - x):
        found.append(Cause("units", f"off by {np.mean(y - x):+.6g} throughout", share))
    some = x != 0
    if some.sum() >= 3 and not y[~some].any() and _is_constant(ratio := y[some] / x[some]):
        found.append(Cause("units", f"{np.mean(ratio):.6g} times what it should be", share))
    if len(np.unique(x)) >= 4:
        slope, rest = np.polyfit(x, y, 1)
        if abs(slope) > 1e-9 and np.abs(y - slope * x - rest).max() <= 1e-9 * max(np.abs(y).max(), 1e-300):
            found.append(Cause("units", f"{slope:.6g} times what it should be, {rest:+.6g}", share))
    return found


def _is_constant(values: NDArray[np.float64]) -> bool:
    return float(np.ptp(values)) <= 1e-9 * float(np.abs(values).max())


def _share(mask: pl.Series) -> float:
    return float(mask.mean() or 0.0)  # type: ignore[arg-type]


def _count(column: Column, cause: Cause | None) -> FeatureSkew:
    wrong, asked = find_wrong(column), ~column.absent
    withheld = column.withheld & asked
    used = withheld & wrong
    compared = int(asked.sum()) - int(withheld.sum()) + int(used.sum())
    lacking = int((withheld & column.joined.is_not_null()).sum())
    told, expected = column.told.filter(wrong), pick_expected(column).filter(wrong)
    worst = (told - expected).abs().max() if told.dtype.is_numeric() and len(told) else None
    shown = zip(told.head(EXAMPLES), expected.head(EXAMPLES), strict=True)
    examples = tuple(f"{one!r} instead of {other!r}" for one, other in shown)
    return FeatureSkew(
        name=column.name,
        asked=int(asked.sum()),
        compared=compared,
        mismatched=int(wrong.sum()),
        withheld=int(withheld.sum()),
        lacking=lacking,
        worst=None if worst is None else float(worst),  # type: ignore[arg-type]
        cause=cause,
        examples=examples,
    )


def _describe(one: FeatureSkew) -> str:
    why = f": {one.cause.name}, {one.cause.words} ({one.cause.share:.0%} of them)" if one.cause else ""
    return f"{one.name}: {one.mismatched:,} of {one.compared:,} ({one.rate or 0.0:.2%}) wrong{why}"


def _tell_starved(starved: Sequence[FeatureSkew]) -> list[str]:
    if not starved:
        return []
    most = sorted(starved, key=lambda one: -one.lacking_share)[:NAMED]
    told = ", ".join(f"{one.name} {one.lacking_share:.0%}" for one in most)
    rest = f" and {len(starved) - NAMED} more" if len(starved) > NAMED else ""
    return [f"more than {MAX_LACKING:.0%} of the values were withheld though the lake has them: {told}{rest}"]
