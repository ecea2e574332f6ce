"""Input drift as an effect size that chance cannot explain: which columns moved, how far, and so what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flows.policy.bins import Bins, Codes, Column, fit_bins
from flows.policy.calendar import Calendar, fit_calendar, turn_reference
from flows.policy.psi import PARTS, measure_parts, measure_psi
from flows.policy.unrest import UNKNOWN, Unrest, count_strata, measure_unrest

Floats = NDArray[np.float64]
LEVELS = ("none", "moderate", "large")
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
    beyond, margin   half of a window's rows farther than a tenth of its range from all that training
                     saw of a number is far, however restless the reference: no deciles are needed to
                     tell a season that no training saw. A year of real months: 3 of 305 days, no week.
    """

    moderate: float = 0.10
    large: float = 0.25
    alpha: float = 0.001
    ordinary: float = 0.005
    min_rows: int = 100
    bins: int = 10
    min_share: float = 0.01
    beyond: float = 0.5
    margin: float = 0.1


@dataclass(frozen=True, slots=True)
class DriftColumn:
    """A column to watch; `importance` is the model's, in any unit, negative counts as none.

    `seen` is the range of a number in all that the model learned from, of which the reference is a part.
    """

    name: str
    kind: str  # "number" or "category"
    importance: float | None = None
    seen: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How far one column moved: `effect` is the PSI in excess of `by_chance` and `usual`.

    `usual` is what the reference's own days (or weeks) surely stay under, beyond chance; `low` is the
    lower bound of the PSI without chance, `usual` included.
    """

    name: str
    kind: str
    psi: float
    by_chance: float
    low: float
    p_value: float  # of rows alone, times the number of columns
    weight: float  # of the model's importance; the columns' sum to 1
    level: str  # "none", "moderate" or "large"
    reason: str
    usual: float = 0.0

    @property
    def effect(self) -> float:
        """PSI without what sampling and the reference's own unrest explain, never below 0."""
        return max(0.0, self.psi - self.by_chance - self.usual)


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """Every column's drift, and the share of the watched columns' importance that moved far.

    `calendar` is the drift of the window's own mix of weekdays and hours, `unmatched` its rows of hours
    that the reference lacks: no column is compared on them.
    """

    enough: bool
    columns: tuple[ColumnDrift, ...]
    drifted_importance: float
    rows: int
    reference_rows: int
    reasons: tuple[str, ...]
    calendar: tuple[ColumnDrift, ...] = ()
    unmatched: int = 0

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """What surely moved, the calendar's columns too, the most important first."""
        watched = (*self.columns, *self.calendar)
        return tuple(sorted((c for c in watched if c.level != "none"), key=lambda c: -c.weight))


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
    unrest: Unrest = UNKNOWN

    @cached_property
    def starts(self) -> Codes:
        """Where each column's bins begin, shape (columns,)."""
        return np.cumsum([0, *(bins.count for bins in self.bins[:-1])]).astype(np.intp)

    def encode(self, frame: Mapping[str, Column]) -> tuple[Codes, Codes]:
        """Return each row's bins, (n, columns), and stratum, (n,)."""
        codes = [bins.encode(frame[c.name]) for c, bins in zip(self.columns, self.bins, strict=True)]
        return np.column_stack(codes) + self.starts, self.calendar.encode(frame, len(codes[0]))

    def judge(self, current: Mapping[str, Column], length: float = 1.0) -> DriftVerdict:
        """Compare a window of `length` days: columns as 1-d arrays with null as NaN or None."""
        if len(current[self.columns[0].name]) < self.policy.min_rows:
            return self.judge_codes(*self.encode(current))
        notes = [
            _tell_change(c.kind, usual, _find_usual(current[c.name], c.kind), current[c.name])
            for c, usual in zip(self.columns, self.usual, strict=True)
        ]
        beyond = [_tell_beyond(c, current[c.name], self.policy) for c in self.columns]
        return self.judge_codes(*self.encode(current), notes, length, beyond)

    def judge_codes(
        self,
        codes: Codes,
        strata: Codes,
        notes: Sequence[str] = (),
        length: float = 1.0,
        beyond: Sequence[str] = (),
    ) -> DriftVerdict:
        """Compare a window that is encoded already; `beyond` says of each column if it left its range."""
        rows, held, policy = len(codes), int(self.held.sum()), self.policy
        if min(rows, held) < policy.min_rows:
            reason = f"no drift verdict: {rows} rows against {held} of reference, {policy.min_rows} needed"
            return DriftVerdict(False, (), 0.0, rows, held, (reason,))
        asked = np.bincount(strata, minlength=len(self.held)).astype(float)
        turned = turn_reference(self.held, asked)
        old = turned.weights @ self.counts
        old *= turned.rows * len(self.columns) / old.sum()
        like = codes if turned.kept.all() else codes[turned.kept[strata]]
        new = np.bincount(like.ravel(), minlength=len(old)).astype(float)
        parts, count = ("", *PARTS), len(self.columns)
        compared = len(parts) * count
        sizes = measure_parts(old, new, self.starts, policy.alpha / compared, self.unrest.factor)
        bounds, weights = self.unrest.find(length, compared), weigh_columns(self.columns)
        told = notes or [""] * count

        def judge_part(i: int, place: int) -> ColumnDrift:
            at = place * count + i
            given = self.columns[i], sizes[:, at], bounds[at], weights[i], told[i], compared, policy
            return _judge_column(*given, parts[place])

        drifts = tuple(
            max((judge_part(i, place) for place in range(len(parts))), key=lambda d: LEVELS.index(d.level))
            for i in range(count)
        )
        drifts = tuple(map(_widen, drifts, beyond or [""] * count))
        mix, lacking = self._judge_calendar(asked, length), int(asked[self.held == 0].sum())
        return _sum_up(drifts, mix, lacking, rows, held, (turned.reason, self.unrest.tell()))

    def _judge_calendar(self, asked: Floats, length: float) -> tuple[ColumnDrift, ...]:
        # Without the reference's days nobody knows what mix a window of this length should have.
        if not (self.calendar.bins and self.unrest.mixes):
            return ()
        old, new = self.calendar.split(self.held), self.calendar.split(asked)
        count, policy = len(self.calendar.bins), self.policy
        bounds, factor = self.unrest.find_mix(length, count)
        sizes = measure_psi(old, new, self.calendar.starts, policy.alpha / count, factor)
        return tuple(
            _judge_column(DriftColumn(name, "calendar"), size, bound, 0.0, "", count, policy)
            for name, size, bound in zip(self.calendar.bins, sizes.T, bounds, strict=True)
        )


def fit_profile(
    reference: Mapping[str, Column],
    columns: Sequence[DriftColumn],
    policy: DriftPolicy = DriftPolicy(),
    calendar: frozenset[str] = frozenset(),
    days: Codes | None = None,
) -> Profile:
    """Make a reference ready; the `calendar`'s columns among it are its strata.

    `days` numbers each row's day, so that days and weeks of 7 can be held against the rest; without it
    rows count as drawn one by one.
    """
    bins = tuple(fit_bins(reference[c.name], c.kind, policy.bins, policy.min_share) for c in columns)
    usual = tuple(_find_usual(reference[c.name], c.kind) for c in columns)
    strata = fit_calendar(reference, calendar)
    profile = Profile(tuple(columns), bins, strata, np.zeros((1, 1)), np.zeros(1), usual, policy)
    codes, stratum = profile.encode(reference)
    counts = count_strata(codes, stratum, strata.count, int(profile.starts[-1]) + bins[-1].count)
    held = np.bincount(stratum, minlength=strata.count).astype(float)
    unrest = UNKNOWN
    if days is not None:
        unrest = measure_unrest(
            counts, held, codes, stratum, days, profile.starts, strata, policy.min_rows, policy.ordinary
        )
    return replace(profile, counts=counts, held=held, unrest=unrest)


def judge_drift(
    reference: Mapping[str, Column],
    current: Mapping[str, Column],
    columns: Sequence[DriftColumn],
    policy: DriftPolicy = DriftPolicy(),
    calendar: frozenset[str] = frozenset(),
    days: Codes | None = None,
    length: float = 1.0,
) -> DriftVerdict:
    """Compare a window of `length` days with `reference`, 1-d arrays with null as NaN or None."""
    if not columns:
        return DriftVerdict(False, (), 0.0, 0, 0, ("no drift verdict: no columns to watch",))
    return fit_profile(reference, columns, policy, calendar, days).judge(current, length)


def weigh_columns(columns: Sequence[DriftColumn]) -> list[float]:
    """Return each column's share of the model's importance."""
    raw = np.array([max(0.0, c.importance or 0.0) for c in columns])
    # Without any importance every column counts alike: blind watching beats no watching.
    even = raw if raw.sum() > 0 else np.ones(len(columns))
    return [float(w) for w in even / even.sum()]


def _judge_column(
    column: DriftColumn,
    size: Floats,
    usual: float,
    weight: float,
    note: str,
    compared: int,
    policy: DriftPolicy,
    part: str = "",
) -> ColumnDrift:
    psi, chance, p, low = (float(value) for value in size)
    effect, surely, level = psi - chance - usual, low - usual, "none"
    if effect >= policy.large and surely >= policy.moderate:
        level = "large"
    elif effect >= policy.moderate and surely > 0:
        level = "moderate"
    apart = f", {usual:.2f} between its own days" if usual else ""
    named = f"PSI of its {part}" if part else "PSI"
    told = (
        f"{column.name}: {named} {psi:.2f} ({chance:.2f} by chance{apart}, surely above {low:.2f}), {level}"
    )
    reason = "; ".join((f"{told}, weight {weight:.0%}", *([note] if note else [])))
    p = min(1.0, p * compared)
    return ColumnDrift(column.name, column.kind, psi, chance, low, p, weight, level, reason, float(usual))


def _sum_up(
    drifts: tuple[ColumnDrift, ...],
    mix: tuple[ColumnDrift, ...],
    lacking: int,
    rows: int,
    held: int,
    notes: Sequence[str],
) -> DriftVerdict:
    far = sorted((d for d in drifts if d.level == "large"), key=lambda d: -d.weight)
    share = float(sum(d.weight for d in far))
    head = f"{len(far)} of {len(drifts)} columns moved far; they hold {share:.0%} of the watched importance"
    odd = tuple(d.reason for d in mix if d.level != "none")
    told = (head, *(d.reason for d in far), *odd, *(note for note in notes if note))
    return DriftVerdict(True, drifts, share, rows, held, told, mix, lacking)


def _tell_beyond(column: DriftColumn, current: Column, policy: DriftPolicy) -> str:
    """Return in words that a number has left the range that training saw; nothing if it has not."""
    if column.seen is None or column.kind != "number":
        return ""
    low, high = column.seen
    margin, side = policy.margin * (high - low), np.asarray(current, dtype=float)
    share = float(np.mean((side < low - margin) | (side > high + margin)))  # null is neither
    if share <= policy.beyond:
        return ""
    return f"{share:.0%} of rows beyond the {low:.4g} to {high:.4g} that training saw"


def _widen(drift: ColumnDrift, beyond: str) -> ColumnDrift:
    if not beyond:
        return drift
    return replace(drift, level="large", reason=f"{drift.name}: {beyond}; {drift.reason}")


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
