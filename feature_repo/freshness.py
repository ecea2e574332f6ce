"""Which values of the online store may be used at an instant, and how old they are. Pure.

A value that may not be used, missing or expired, becomes null: so it does in training, where the
point-in-time join gives null beyond a view's `ttl` or where there is no row, and the model (histogram
gradient boosting) learned from those nulls which way they go in each split. Nothing else is imputed, on
either side. Where more than half is gone, the ladder does not ask a model at all (services/ladder.py).
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl

from feature_repo.contract import FeatureTable, Problem
from feature_repo.online_tables import MICROSECOND, to_microseconds

NEVER = 2**63  # microseconds since 1970


class Memo:
    """Stands for the values that are held of a key, for as long as they are.

    A reader that remembers what it made of them does so by this, weakly: what it made is gone with the
    values, and with the reader.
    """

    __slots__ = ("__weakref__",)

    def __eq__(self, other: object) -> bool:
        """Two vectors differ by their values, not by this."""
        return isinstance(other, Memo)

    __hash__ = None  # type: ignore[assignment]


class OnlineVector(NamedTuple):
    """Store-backed features of one request; None where there is no value that may be used.

    missing   features that the store has no value for
    expired   feature -> age in seconds, older than its view's `ttl`; negative: from after the request
    stamps    view -> microseconds since 1970 of the row that it holds, expired or not
    at        the instant of the request, in microseconds since 1970
    memo      stands for just these values to who remembers them; None if they are this request's alone
    """

    values: Mapping[str, Any]
    missing: tuple[str, ...]
    expired: dict[str, float]
    stamps: Mapping[str, int] = MappingProxyType({})
    at: int = 0
    memo: Memo | None = None

    @property
    def ages(self) -> dict[str, float]:
        """View -> age in seconds of the row that it holds, expired or not."""
        return {view: (self.at - stamp) / 1e6 for view, stamp in self.stamps.items()}


class Held(NamedTuple):
    """The newest rows that there are of one request's keys, whatever their age.

    values   feature -> value, None where there is none; numbers are floats
    missing  features of tables that have no row
    stamps   view -> microseconds since 1970 of its row, of each other table
    since    from here until `until`, no row is expired
    memo     stands for these values to who remembers them
    """

    values: Mapping[str, Any]
    missing: tuple[str, ...]
    stamps: Mapping[str, int]
    since: int
    until: int
    memo: Memo


class Freshness:
    """What may be used of some feature tables' rows. Built once: `judge` is called for each request."""

    def __init__(self, tables: Sequence[FeatureTable]) -> None:
        self._tables = [(table.name, tuple(table.features), table.ttl // MICROSECOND) for table in tables]
        kinds = {name: kind for table in tables for name, kind in table.features.items()}
        self._names = tuple(kinds)
        self._whole = tuple(name for name, kind in kinds.items() if kind not in {pl.Float64, pl.String})

    def hold(self, stamps: Sequence[int | None], values: Sequence[Any]) -> Held:
        """Return the rows that a store read, ready to be judged at any instant.

        stamps  of each table's row, in microseconds since 1970; None: no row
        values  of all tables' features, in the order in which the tables state them
        """
        held = dict(zip(self._names, values, strict=True))
        rows = list(zip(self._tables, stamps, strict=True))
        missing = tuple(name for (_, names, _), stamp in rows if stamp is None for name in names)
        held.update(dict.fromkeys(missing))
        for name in self._whole:
            if held[name] is not None:
                held[name] = float(held[name])
        there = {name: (stamp, stamp + ttl) for (name, _, ttl), stamp in rows if stamp is not None}
        since = max((first for first, _ in there.values()), default=0)
        until = min((last for _, last in there.values()), default=NEVER)
        return Held(held, missing, {name: first for name, (first, _) in there.items()}, since, until, Memo())

    def judge(self, held: Held, at: datetime) -> OnlineVector:
        """Return what may be used of some rows at an instant."""
        now = to_microseconds(at)
        if held.since <= now <= held.until:  # nearly always
            return OnlineVector(held.values, held.missing, {}, held.stamps, now, held.memo)
        expired: dict[str, float] = {}
        for view, features, ttl in self._tables:
            stamp = held.stamps.get(view)
            if stamp is not None and not 0 <= now - stamp <= ttl:
                expired.update(dict.fromkeys(features, (now - stamp) / 1e6))
        values = {**held.values, **dict.fromkeys(expired)} if expired else held.values
        return OnlineVector(values, held.missing, expired, held.stamps, now)


def judge_ages(problem: Problem, answer: Mapping[str, list[Any]], index: int, at: datetime) -> OnlineVector:
    """Return row `index` of the newest values that there are, judged at an instant.

    answer  feature -> values, and feature__ts -> the seconds since 1970 of each one's tick, or 0
    """
    firsts = (next(iter(table.features)) for table in problem.feature_tables)
    seconds = [answer[f"{name}__ts"][index] for name in firsts]
    values = [answer[name][index] for table in problem.feature_tables for name in table.features]
    freshness = Freshness(problem.feature_tables)
    held = freshness.hold(
        [round(second * 1e6) if second > 0 else None for second in seconds],
        # NaN stands for null wherever pandas has been.
        [None if isinstance(value, float) and math.isnan(value) else value for value in values],
    )
    return freshness.judge(held, at)
