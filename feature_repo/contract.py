"""The seam between the loop and a problem: what a problem must state, in types.

Everything outside the files that the README lists as particular to the problem works on these
types alone, so that another problem is another set of values.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

Frames = Mapping[str, pl.DataFrame]
VERSION = re.compile(r"_v\d+$")


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

    `ttl` is the freshness limit, `meanings` says what each feature means, `owner` who answers for it.
    From version 2 on, the table and its features are stored as `name_v2`, so that it can stand beside the
    version that an older model takes: `replace(table, version=2, compute=...)`. `compute` itself never
    sees the version. Keys are text, whatever they are in a request.

    `shares`: those of the keys that a row has in common with the raw rows it is computed from; all of
    them, if it is not stated. A row on all airports of a city shares none.
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
    owner: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    shares: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.version == 1:
            return
        # Once and for all: whatever stores or reads the table knows it by this name alone.
        stored = {
            "name": self._store_as(self.name),
            "features": {self._store_as(name): kind for name, kind in self.features.items()},
            "meanings": {self._store_as(name): text for name, text in self.meanings.items()},
        }
        for attribute, value in stored.items():
            object.__setattr__(self, attribute, value)

    @property
    def source_keys(self) -> tuple[str, ...]:
        """The keys by which raw rows that a row is computed from are found."""
        return self.keys if self.shares is None else self.shares

    @property
    def plain_name(self) -> str:
        """The name that all versions of the table share."""
        return self.name if self.version == 1 else VERSION.sub("", self.name)

    def compute_rows(self, raw: Frames, ticks: Sequence[datetime]) -> pl.DataFrame:
        """Return what `compute` says, under the names that it is stored by."""
        rows = self.compute(raw, ticks)
        return rows if self.version == 1 else rows.rename({VERSION.sub("", n): n for n in self.features})

    def _store_as(self, name: str) -> str:
        return f"{VERSION.sub('', name)}_v{self.version}"


@dataclass(frozen=True)
class Feature:
    """One input of the model, in the order in which the model takes it."""

    name: str
    kind: str  # "number" or "category"
    source: str  # name of the feature table, or "request"
    meaning: str = ""  # of a request's; a table's features are described there


@dataclass(frozen=True)
class Problem:
    """The frozen facts of one prediction problem.

    entity        names one thing predicted (unique per prediction target)
    decided_at    column with the instant, in UTC, at which the prediction is asked for
    target        0/1 column; null where the outcome never comes (say which in `excluded`)
    prior         the answer of last resort, before any model was ever promoted
    request_fields  what `add_request_features` reads of a request
    owner         who answers for the model's inputs as a whole, and for those of the request
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
    owner: str = ""

    def __post_init__(self) -> None:
        stated = Counter(name for table in self.feature_tables for name in table.features)
        twice = sorted(name for name, times in stated.items() if times > 1)
        if twice:
            raise ValueError(f"{self.name}: stated by more than one feature table: {', '.join(twice)}")

    def table(self, name: str) -> FeatureTable:
        """Return the feature table of that name."""
        return next(t for t in self.feature_tables if t.name == name)

    @property
    def used_tables(self) -> tuple[FeatureTable, ...]:
        """The feature tables that the model's inputs come from."""
        sources = {f.source for f in self.features}
        return tuple(table for table in self.feature_tables if table.name in sources)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order."""
        return tuple(f.name for f in self.features)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categorical inputs, in order."""
        return tuple(f.name for f in self.features if f.kind == "category")
