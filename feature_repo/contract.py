"""The seam between the loop and a problem: what a problem must state, in types.

Everything outside the files that the README lists as particular to the problem works on these
types alone, so that another problem is another set of values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

Frames = Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open stretch of logical time, [since, until), both aware and in UTC."""

    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise ValueError(f"period {self.since} to {self.until}: both ends need a time zone")
        if self.since > self.until:
            raise ValueError(f"period: since {self.since} comes after until {self.until}")

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%dT%H:%MZ}/{self.until:%Y-%m-%dT%H:%MZ}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a delivery was read from: where it lies, and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the source delivered for one table and period, and the files that it came from."""

    frame: pl.DataFrame
    files: tuple[SourceFile, ...] = ()


# What a caller may ask of a source: a raw table's name and a period; rows whose `known_at` falls in it.
Fetch = Callable[[str, Period], Delivery]
# What a batch under check may look up: another raw table's rows known up to `back` before the batch
# began and until it ends, from the lake and from what was delivered with it.
Lookup = Callable[[str, timedelta], pl.DataFrame]


@dataclass(frozen=True)
class RawTable:
    """A table as the source delivers it, one batch at a time.

    A row enters the batch in whose period its `known_at` falls: the instant, in UTC, from which
    a person on the spot could have known it. `ahead`: how long before the problem's start the first
    rows were known (a timetable, say).
    """

    name: str
    schema: Mapping[str, pl.DataType | type[pl.DataType]]
    key: tuple[str, ...]
    known_at: str = "known_at"
    ahead: timedelta = timedelta(0)


@dataclass(frozen=True)
class FeatureTable:
    """A feature view: rows of features by key, stamped with the tick from which they hold.

    `compute(raw, ticks)` gets the raw tables that it reads, from `lookback` before the first tick on,
    and returns one row per key and tick: keys, `event_timestamp`, features. It must use only rows
    known before the tick. `ticks(period)` are the ticks in (since, until]: the last one is settled by
    what became known in the period.
    """

    name: str
    keys: tuple[str, ...]
    features: Mapping[str, pl.DataType | type[pl.DataType]]
    reads: tuple[str, ...]
    every: timedelta
    lookback: timedelta
    ttl: timedelta
    compute: Callable[[Frames, Sequence[datetime]], pl.DataFrame]
    ticks: Callable[[Period], Sequence[datetime]]
    description: str = ""


@dataclass(frozen=True)
class Feature:
    """One input of the model, in the order in which the model takes it."""

    name: str
    kind: str  # "number" or "category"
    source: str  # name of the feature table, or "request"


@dataclass(frozen=True)
class Problem:
    """The frozen facts of one prediction problem.

    entity        names one thing predicted (unique per prediction target)
    decided_at    column with the instant, in UTC, at which the prediction is asked for
    target        0/1 column; null where the outcome never comes (say which in `excluded`)
    prior         the answer of last resort, before any model was ever promoted
    request_fields  what `add_request_features` reads of a request
    horizon       longest wait from decision to outcome; labels older than that are mature
    """

    name: str
    entity: str
    decided_at: str
    target: str
    prior: float
    horizon: timedelta
    time_zone: str
    start: datetime
    end: datetime
    feature_service: str
    raw: tuple[RawTable, ...]
    feature_tables: tuple[FeatureTable, ...]
    features: tuple[Feature, ...]
    request_fields: Mapping[str, pl.DataType | type[pl.DataType]]
    slices: tuple[str, ...]
    rule_by: str
    build_requests: Callable[[Frames], pl.DataFrame]
    build_outcomes: Callable[[Frames], pl.DataFrame]
    add_request_features: Callable[[pl.DataFrame], pl.DataFrame]
    calendar: frozenset[str] = field(default_factory=frozenset)
    limits: Mapping[str, Any] = field(default_factory=dict)

    def table(self, name: str) -> FeatureTable:
        """Return the feature table of that name."""
        return next(t for t in self.feature_tables if t.name == name)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order."""
        return tuple(f.name for f in self.features)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categorical inputs, in order."""
        return tuple(f.name for f in self.features if f.kind == "category")
