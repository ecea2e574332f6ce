"""What wrong values would be if a known cause were at work: other ticks, older rows, other keys, columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

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
CLOCKS = (-5, -4, 4, 5)  # hours between UTC and a local clock, for want of an offset that fits
LATER = 6  # steps after the request
EARLIER = 24  # steps before it
OLD_VERSIONS = 3  # of a table, looked into for what it held before
EVER = timedelta(days=3650)


def find_causes(project: Project, asked: Asked, columns: Sequence[Column]) -> dict[str, Cause]:
    """Return the likeliest cause for every feature with wrong values, judged on some of them."""
    named = {column.name: column for column in columns}
    wrong = {name: found for name, column in named.items() if len(found := _pick(find_wrong(column)))}
    tables = {name: table for table in project.problem.feature_tables for name in table.features}
    causes = {}
    for name, rows in wrong.items():
        look = _Look(project, asked.rows[rows.to_list()].with_row_index("_row"), name)
        others = look.list_stored(tables[name]) if name in tables else look.list_requested()
        causes[name] = explain(take(named, name, rows), [*others, *_list_columns(named, name, rows)])
    return causes


@dataclass(frozen=True)
class _Look:
    """Wrong values of one feature: their requests, numbered by `_row`."""

    project: Project
    rows: pl.DataFrame
    name: str

    def list_stored(self, table: FeatureTable) -> Iterator[Alternative]:
        """Yield what the feature's table says at other ticks, of other keys, and said before."""
        decided = self.rows[self.project.problem.decided_at]
        first, last = decided.min(), decided.max()
        assert isinstance(first, datetime)
        assert isinstance(last, datetime)
        back = max(EARLIER * table.every, 3 * DAY)
        span = Period(first - table.ttl - back, last + LATER * max(table.every, HOUR))
        frame = self.project.lake.read(table.name, span, STAMP, closed="right")
        yield from self._list_old(table, span)
        yield from self._list_online(table)
        yield from self._list_clocks(table, frame)
        older = []
        for step in range(-EARLIER, LATER + 1):
            if step:
                values = self._shift(table, frame, step * table.every)
                older += [values.alias(str(step))] if step < 0 else []
                yield _name_step(table, step, values)
        yield Alternative(
            "expiry", "older than the table's limit, and told as fresh", self._shift(table, frame, None)
        )
        several = pl.DataFrame(older).select(pl.concat_list(pl.all())).to_series()
        yield Alternative("stale store", "the value of some older tick", several)
        yield self._collect_keys(table, frame)

    def list_requested(self) -> Iterator[Alternative]:
        """Yield what the request's own features would be by a clock that is off."""
        problem = self.project.problem
        kinds = problem.request_fields.items()
        instants = [name for name, kind in kinds if isinstance(kind, pl.Datetime)]
        if not instants:
            return
        for hours in (*CLOCKS, -1, 1):
            moved = self.rows.with_columns(pl.col(instants) + hours * HOUR)
            yield self._tell_clock(f"{hours:+} h off", problem.add_request_features(moved)[self.name])
        for sign, words in ((1, "local time taken for UTC"), (-1, "UTC taken for local time")):
            local = [
                (pl.col(name) + sign * _offset(name, problem.time_zone)).alias(name) for name in instants
            ]
            moved = problem.add_request_features(self.rows.with_columns(local))
            yield self._tell_clock(words, moved[self.name])

    def _list_old(self, table: FeatureTable, span: Period) -> Iterator[Alternative]:
        lake, words = self.project.lake, "the lake held that value before: rows came late or were corrected"
        newest = lake.version(table.name)
        for version in range(newest - 1, max(-1, newest - 1 - OLD_VERSIONS), -1):
            if lake.can_read(table.name, version):
                frame = lake.read(table.name, span, STAMP, version=version, closed="right")
                yield Alternative("late data", words, self._shift(table, frame, timedelta(0)))
        within = reach(self.rows, self.project, table)
        for versions in self._find_raw_versions(table):
            try:
                frame = compute_features(self.project, table, within, Snapshot.of(versions))
            except NotEnoughData:
                continue
            words = "raw rows that came late or were corrected since the lake's features were computed"
            told = self._shift(table, frame, timedelta(0))
            yield Alternative("late data", words, told, against="computed")

    def _find_raw_versions(self, table: FeatureTable) -> list[Mapping[str, int]]:
        """Return the raw versions that the newest commits of the table were computed from."""
        lake = self.project.lake
        commits = [c["perennial.versions"] for c in lake.history(table.name) if "perennial.versions" in c]
        distinct = list(dict.fromkeys(commits))[:OLD_VERSIONS]
        current = {name: lake.version(name) for name in table.reads}
        return [versions for text in distinct if (versions := json.loads(text)) != current]

    def _list_online(self, table: FeatureTable) -> Iterator[Alternative]:
        """Yield what the log of writes says was online when each answer was given."""
        project = self.project
        past = OnlinePast(
            project.lake, project.problem, Materializations(project.settings.home / "feast").read()
        )
        late: list[float | None] = []
        stale: list[float | None] = []
        try:
            for row in self.rows.iter_rows(named=True):
                if past.find_write(row["received_at"]) is None:
                    return
                held = past.find_rows(table, row, row["received_at"])[0]
                late.append((held.values or {}).get(self.name))
                stale.append(
                    (held.values or {}).get(self.name) if self._is_behind(table, row, held.stamp) else None
                )
        except NotEnoughData:
            return
        told = pl.Series(values=stale, dtype=pl.Float64)
        yield Alternative("stale store", "an older tick was what the store held", told)
        words = "it was online when the answer was given; the lake's value has changed since"
        yield Alternative("late data", words, pl.Series(values=late, dtype=pl.Float64))

    def _is_behind(self, table: FeatureTable, row: Mapping[str, datetime], stamp: float) -> bool:
        return row[self.project.problem.decided_at].timestamp() - stamp >= table.every.total_seconds()

    def _list_clocks(self, table: FeatureTable, frame: pl.DataFrame) -> Iterator[Alternative]:
        for hours in CLOCKS:
            yield self._tell_clock(f"a tick {hours:+} h away", self._shift(table, frame, hours * HOUR))
        decided, zone = self.project.problem.decided_at, self.project.problem.time_zone
        for sign, words in ((1, "local time taken for UTC"), (-1, "UTC taken for local time")):
            moved = pl.col(decided) + sign * _offset(decided, zone)
            yield self._tell_clock(
                words, self._look_up(table, frame, self.rows.with_columns(_at=moved), table.ttl)
            )

    def _collect_keys(self, table: FeatureTable, frame: pl.DataFrame) -> Alternative:
        """Return, for each wrong value, what the newest tick says of any key."""
        at = self.project.problem.decided_at
        every = frame.group_by(STAMP).agg(pl.col(self.name).fill_nan(None)).sort(STAMP)
        asked = self.rows.select("_row", at).sort(at)
        found = asked.join_asof(every, left_on=at, right_on=STAMP, strategy="backward").sort("_row")
        return Alternative("another key", "the value of another key at the same tick", found[self.name])

    def _shift(self, table: FeatureTable, frame: pl.DataFrame, by: timedelta | None) -> pl.Series:
        moved = self.rows.with_columns(_at=pl.col(self.project.problem.decided_at) + (by or timedelta(0)))
        return self._look_up(table, frame, moved, EVER if by is None else table.ttl)

    def _look_up(
        self, table: FeatureTable, frame: pl.DataFrame, rows: pl.DataFrame, ttl: timedelta
    ) -> pl.Series:
        asked = rows.select("_row", "_at", *table.keys).sort("_at")
        found = find_newest(asked, table, frame, "_at", ttl)
        return found.sort("_row")[self.name].fill_nan(None)

    def _tell_clock(self, words: str, values: pl.Series) -> Alternative:
        return Alternative("time zone", f"a clock is off: {words}", values)


def _name_step(table: FeatureTable, step: int, values: pl.Series) -> Alternative:
    told = f"the value of {abs(step)} tick{'s' if abs(step) > 1 else ''}"
    if step > 0:
        return Alternative("from after the request", f"{told} later than the request", values)
    if step == -1 and table.every < DAY:
        words = f"{told} before: a window off by one, or a store that is one behind"
        return Alternative("window", words, values)
    return Alternative("stale store", f"{told} before", values)


def _list_columns(named: Mapping[str, Column], name: str, rows: pl.Series) -> list[Alternative]:
    kind = named[name].told.dtype
    return [
        Alternative("another column", f"the value of {other}", column.joined.gather(rows))
        for other, column in named.items()
        if other != name and column.told.dtype == kind
    ]


def _offset(name: str, time_zone: str) -> pl.Expr:
    local = pl.col(name).dt.convert_time_zone(time_zone)
    return local.dt.base_utc_offset() + local.dt.dst_offset()


def _pick(wrong: pl.Series) -> pl.Series:
    """Return the numbers of at most SAMPLE wrong values, spread evenly over all."""
    rows = wrong.arg_true()
    return rows.gather_every(max(1, len(rows) // SAMPLE)).head(SAMPLE)
