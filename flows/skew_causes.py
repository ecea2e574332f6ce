"""What wrong values would be if a known cause were at work: other ticks, older rows, other keys, columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import polars as pl

from feature_repo.contract import FeatureTable, Period
from feature_repo.errors import NotEnoughData
from feature_repo.lake import Snapshot
from feature_repo.materializations import Materializations
from flows.features import compute_features
from flows.online_past import OnlinePast
from flows.policy.skew import Alternative, Cause, Column, explain, find_wrong
from flows.project import Project
from flows.skew_values import Asked, find_newest, reach, take

STAMP = "event_timestamp"
SAMPLE = 200  # wrong values of a feature that are looked into
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CLOCKS = (-5, -4, 4, 5)  # hours between UTC and a local clock that did not change when it should have
LATER = 6  # steps after the request
EARLIER = 24  # steps before it
OLD_VERSIONS = 3  # of a table, looked into for what it held before
EVER = timedelta(days=3650)
MIXED = (("local time taken for UTC", 1), ("UTC taken for local time", -1))
LATE = "the lake held that value before: rows came late or were corrected"
LATE_RAW = "raw rows came late or were corrected after the lake's features were computed"
LATE_ONLINE = "it was online when the answer was given; the lake's value has changed since"


@dataclass(frozen=True)
class Supposed:
    """All features of a table as they would have been told if a cause were at work, row by row."""

    cause: str
    words: str
    values: pl.DataFrame
    against: Literal["joined", "computed"] = "joined"
    logged: bool = False

    def pick(self, name: str, places: pl.Series) -> Alternative:
        """Return one feature's values at some of the rows."""
        values = self.values[name].gather(places)
        return Alternative(self.cause, self.words, values, self.against, self.logged)


def find_causes(project: Project, asked: Asked, columns: Sequence[Column]) -> dict[str, Cause]:
    """Return the likeliest cause for every feature with wrong values, judged on some of them."""
    named = {column.name: column for column in columns}
    wrong = {name: rows for name, column in named.items() if len(rows := _pick(find_wrong(column)))}
    found: dict[str, Cause] = {}
    for table in (*project.problem.feature_tables, None):
        names = [name for name in wrong if name in _names_of(project, table)]
        if not names:
            continue
        looked = pl.concat([wrong[name] for name in names]).unique().sort()
        look = _Look(project, asked.rows[looked.to_list()].with_row_index("_row"))
        supposed = list(look.suppose_stored(table) if table else look.suppose_requested())
        for name in names:
            places = looked.search_sorted(wrong[name])
            others = [one.pick(name, places) for one in supposed]
            others += _list_columns(named, name, wrong[name])
            found[name] = explain(take(named[name], wrong[name]), others)
    return found


@dataclass(frozen=True)
class _Look:
    """Requests with wrong values, numbered by `_row`."""

    project: Project
    rows: pl.DataFrame

    def suppose_stored(self, table: FeatureTable) -> Iterator[Supposed]:
        """Yield what the table says at other ticks and of other keys, and what it said before."""
        decided = self.rows[self.project.problem.decided_at]
        first, last = decided.min(), decided.max()
        assert isinstance(first, datetime)
        assert isinstance(last, datetime)
        back, ahead = max(EARLIER * table.every, 3 * DAY), LATER * max(table.every, HOUR)
        span = Period(first - table.ttl - back, last + ahead)
        frame = self.project.lake.read(table.name, span, STAMP, closed="right")
        yield from self._suppose_late(table, span)
        yield from self._suppose_online(table)
        yield from self._suppose_clocks(table, frame)
        yield from self._suppose_ticks(table, frame)
        words = "older than the table's limit, and told as fresh"
        yield Supposed("expiry", words, self._shift(table, frame, timedelta(0), EVER))
        yield self._suppose_keys(table, frame)

    def suppose_requested(self) -> Iterator[Supposed]:
        """Yield what the request's own features would be by a clock that is off."""
        problem = self.project.problem
        instants = [name for name, kind in problem.request_fields.items() if isinstance(kind, pl.Datetime)]
        copied = [f.name for f in problem.features if f.source == "request"]
        moves = [(f"{h:+} h off", [pl.col(n) + h * HOUR for n in instants]) for h in (*CLOCKS, -1, 1)]
        for words, sign in MIXED:
            moves.append((words, [pl.col(n) + sign * _offset(n, problem.time_zone) for n in instants]))
        for words, move in moves if instants else ():
            moved = problem.add_request_features(self.rows.with_columns(move)).select(copied)
            yield Supposed("time zone", f"a clock is off: {words}", moved)

    def _suppose_late(self, table: FeatureTable, span: Period) -> Iterator[Supposed]:
        lake = self.project.lake
        newest = lake.version(table.name)
        for version in range(newest - 1, max(-1, newest - 1 - OLD_VERSIONS), -1):
            if lake.can_read(table.name, version):
                frame = lake.read(table.name, span, STAMP, version=version, closed="right")
                yield Supposed("late data", LATE, self._shift(table, frame))
        within = reach(self.rows, self.project, table)
        for versions in self._find_raw_versions(table):
            try:
                frame = compute_features(self.project, table, within, Snapshot.of(versions))
            except NotEnoughData:  # retention has dropped them
                continue
            yield Supposed("late data", LATE_RAW, self._shift(table, frame), against="computed")

    def _find_raw_versions(self, table: FeatureTable) -> list[Mapping[str, int]]:
        """Return the raw versions that the table's newest commits were computed from, if not today's."""
        lake = self.project.lake
        commits = [c["perennial.versions"] for c in lake.history(table.name) if "perennial.versions" in c]
        current = {name: lake.version(name) for name in table.reads}
        known = [json.loads(text) for text in list(dict.fromkeys(commits))[:OLD_VERSIONS]]
        return [versions for versions in known if versions != current]

    def _suppose_online(self, table: FeatureTable) -> Iterator[Supposed]:
        """Yield what the log of writes says was online when each answer was given, if it says so."""
        home, problem = self.project.settings.home, self.project.problem
        past = OnlinePast(self.project.lake, problem, Materializations(home / "feast").read())
        held, behind = [], []
        try:
            for row in self.rows.iter_rows(named=True):
                if past.find_write(row["received_at"]) is None:
                    return
                online = past.find_rows(table, row, row["received_at"])[0]
                held.append({name: (online.values or {}).get(name) for name in table.features})
                age = row[problem.decided_at].timestamp() - online.stamp
                behind.append(age >= table.every.total_seconds())
        except NotEnoughData:  # the version that was online is gone
            return
        values = _clean(pl.DataFrame(held, schema=dict(table.features)))
        late = pl.Series(behind)
        stale = values.select(pl.when(late).then(pl.all()))
        yield Supposed("stale store", "an older tick was what the store held", stale, logged=True)
        yield Supposed("late data", LATE_ONLINE, values, logged=True)

    def _suppose_clocks(self, table: FeatureTable, frame: pl.DataFrame) -> Iterator[Supposed]:
        for hours in CLOCKS:
            words = f"a clock is off: a tick {hours:+} h away"
            yield Supposed("time zone", words, self._shift(table, frame, hours * HOUR))
        problem = self.project.problem
        for words, sign in MIXED:
            moved = self._shift(table, frame, sign * _offset(problem.decided_at, problem.time_zone))
            yield Supposed("time zone", f"a clock is off: {words}", moved)

    def _suppose_ticks(self, table: FeatureTable, frame: pl.DataFrame) -> Iterator[Supposed]:
        older = []
        for step in range(-EARLIER, LATER + 1):
            if step:
                values = self._shift(table, frame, step * table.every)
                yield _name_step(table, step, values)
                older += [values] if step < 0 else []
        # As a store that is brought up to date at odd times: of the nearest ticks only, or chance fits too.
        near = older[-4:]
        several = [pl.concat_list([part[name] for part in near]).alias(name) for name in table.features]
        yield Supposed("stale store", "the value of one of the ticks before", pl.select(several))

    def _suppose_keys(self, table: FeatureTable, frame: pl.DataFrame) -> Supposed:
        """Return what the newest tick says of any key."""
        at = self.project.problem.decided_at
        every = frame.group_by(STAMP).agg(pl.col(list(table.features)).fill_nan(None)).sort(STAMP)
        asked = self.rows.select("_row", at).sort(at)
        found = asked.join_asof(every, left_on=at, right_on=STAMP, strategy="backward").sort("_row")
        return Supposed("another key", "the value of another key at the same tick", found)

    def _shift(
        self,
        table: FeatureTable,
        frame: pl.DataFrame,
        by: timedelta | pl.Expr = timedelta(0),
        ttl: timedelta | None = None,
    ) -> pl.DataFrame:
        """Return the table's features, had the request been decided so much later."""
        moved = (pl.col(self.project.problem.decided_at) + by).cast(pl.Datetime("us", "UTC"))
        asked = self.rows.select("_row", *table.keys, _at=moved).sort("_at")
        found = find_newest(asked, table, frame, "_at", ttl).sort("_row")
        return _clean(found.select(list(table.features)))


def _name_step(table: FeatureTable, step: int, values: pl.DataFrame) -> Supposed:
    told = f"the value of {abs(step)} tick{'s' if abs(step) > 1 else ''}"
    if step > 0:
        return Supposed("from after the request", f"{told} later than the request", values)
    if step == -1 and table.every < DAY:
        words = f"{told} before: a window off by one, or a store that is one behind"
        return Supposed("window", words, values)
    return Supposed("stale store", f"{told} before", values)


def _list_columns(named: Mapping[str, Column], name: str, rows: pl.Series) -> list[Alternative]:
    kind = named[name].told.dtype
    return [
        Alternative("another column", f"the value of {other}", column.joined.gather(rows))
        for other, column in named.items()
        if other != name and column.joined.dtype == kind
    ]


def _names_of(project: Project, table: FeatureTable | None) -> set[str]:
    if table:
        return set(table.features)
    return {f.name for f in project.problem.features if f.source == "request"}


def _offset(name: str, time_zone: str) -> pl.Expr:
    local = pl.col(name).dt.convert_time_zone(time_zone)
    return local.dt.base_utc_offset() + local.dt.dst_offset()


def _clean(frame: pl.DataFrame) -> pl.DataFrame:
    kinds: Any = pl.selectors.float()
    return frame.with_columns(kinds.fill_nan(None))


def _pick(wrong: pl.Series) -> pl.Series:
    """Return the numbers of at most SAMPLE wrong values, spread evenly over all."""
    rows = wrong.arg_true()
    return rows.gather_every(max(1, len(rows) // SAMPLE)).head(SAMPLE)
