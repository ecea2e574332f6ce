"""What the online store held at an instant of the past, read back from the lake.

The log of writes says which ticks of which table versions had been put online by then; the lake still
holds those versions. Newer rows win, as they do when they are written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from feature_repo.contract import FeatureTable, Period, Problem
from feature_repo.lake import Lake
from feature_repo.materializations import Materialization

STAMP = "event_timestamp"
# An answer is stamped when it is made. Its features were read before that, at most so long: a client
# waits no longer, and a request of 1,000 items takes a second or two.
SLACK = timedelta(seconds=10)
Rows = Mapping[tuple[Any, ...], list[dict[str, Any]]]
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PastRow:
    """What a feature table held for one key; `stamp` is the tick in seconds since 1970, 0 if nothing."""

    table: str
    version: int = -1
    stamp: float = 0.0
    values: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class _Stretch:
    since: datetime | None
    until: datetime
    version: int


class OnlinePast:
    """The online store's past, from its log of writes (in order) and the lake."""

    def __init__(
        self, lake: Lake, problem: Problem, log: Sequence[Materialization], slack: timedelta = SLACK
    ) -> None:
        self._lake = lake
        self._problem = problem
        self._log = log
        self._slack = slack
        self._cache: dict[tuple[str, int, datetime], Rows] = {}

    def find_write(self, at: datetime) -> Materialization | None:
        """Return the last write that was done by an instant of wall-clock time."""
        done = [write for write in self._log if write.ended_at and write.ended_at <= at]
        return done[-1] if done else None

    def find_rows(self, table: FeatureTable, row: Mapping[str, Any], at: datetime) -> list[PastRow]:
        """Return what the table may have held for the row's keys when an answer was stamped `at`.

        One row, unless a write went on meanwhile or was killed: then what it held before and after, the
        likeliest first. Rows too old to be used are left out. Raises NotEnoughData if a version is gone.
        """
        states = self._list_states(table, row[self._problem.decided_at] - table.ttl, at)
        key = tuple(str(row[name]) for name in table.keys)
        floor = (row[self._problem.decided_at] - table.ttl).replace(hour=0, minute=0, second=0, microsecond=0)
        found: list[PastRow] = []
        for stretches in states:
            held = self._fold(table, stretches, key, floor)
            found += [held] if held not in found else []
        return found

    def _list_states(self, table: FeatureTable, oldest: datetime, at: datetime) -> list[list[_Stretch]]:
        """Return the writes that had taken effect, in every way that is possible, likeliest first."""
        writes = [
            w
            for w in self._log
            if table.name in w.snapshot.versions and w.started_at <= at and w.until >= oldest
        ]
        newest = writes[-1].id if writes else 0
        killed = {w.id for w in writes if w.ended_at is None and w.id < newest}
        going = [
            w.id
            for w in writes
            if w.id not in killed and (w.ended_at is None or w.ended_at > at - self._slack)
        ]
        ended = sum(w.ended_at is not None and w.ended_at <= at for w in writes if w.id in going)
        states = []
        for count in sorted(range(len(going) + 1), key=lambda n: (n != ended, n)):
            for lost in [set(), killed] if killed else [set()]:
                left_out = {*going[count:], *lost}
                states.append(_merge(table.name, [w for w in writes if w.id not in left_out]))
        return states

    def _fold(
        self, table: FeatureTable, stretches: Sequence[_Stretch], key: tuple[Any, ...], floor: datetime
    ) -> PastRow:
        best = PastRow(table.name)
        for stretch in reversed(stretches):
            if best.stamp >= stretch.until.timestamp():
                continue
            rows = self._read(table, stretch.version, floor).get(key, ())
            since = stretch.since or BEGINNING
            within = [row for row in rows if since < row[STAMP] <= stretch.until]
            if within and (stamp := within[-1][STAMP].timestamp()) > best.stamp:
                values = {name: within[-1][name] for name in table.features}
                best = PastRow(table.name, stretch.version, stamp, values)
            if within and stretch.since is None:
                break  # it was written over whatever there was
        return best

    def _read(self, table: FeatureTable, version: int, floor: datetime) -> Rows:
        cached = self._cache.get((table.name, version, floor))
        if cached is None:
            frame = self._lake.read(
                table.name, Period(floor, datetime.max.replace(tzinfo=UTC)), STAMP, version=version
            )
            frame = frame if frame.width else pl.DataFrame(schema={**dict.fromkeys((*table.keys, STAMP))})
            cached = frame.sort(STAMP).rows_by_key(list(table.keys), named=True, include_key=False)
            cached = {key if isinstance(key, tuple) else (key,): rows for key, rows in cached.items()}
            self._cache[table.name, version, floor] = cached
        return cached


def _merge(table: str, writes: Sequence[Materialization]) -> list[_Stretch]:
    """Return the writes as stretches of ticks; those that follow each other at one version are one."""
    merged: list[_Stretch] = []
    for write in writes:
        version, last = write.snapshot.versions[table], merged[-1] if merged else None
        follows = last is not None and last.since is not None and last.version == version
        if follows and last and write.since and last.until >= write.since and write.until >= last.until:
            merged[-1] = _Stretch(min(last.since or write.since, write.since), write.until, version)
        else:
            merged.append(_Stretch(write.since, write.until, version))
    return merged
