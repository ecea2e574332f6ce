"""Skews to be found, each a change of one side alone: of the answers', of the lake's or of one function.

A function returns the answers and the project that the probe gets.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo import transforms
from feature_repo.contract import Period, Problem
from flows.features import write_features
from flows.project import Project
from services.journal import Prediction
from tests.skew.harness import DAY, HOUR, STAMP, Base, changed, find_stretch

Found = tuple[list[Prediction], Project]
DAILY = ("carrier_daily", "airport_daily", "route_daily")
RECENT = ("airport_recent", "pair_recent")
HOURLY = (*RECENT, "airport_weather")
ZONE = transforms.TIME_ZONE


@dataclass(frozen=True)
class Mutation:
    """An injected skew.

    must   features that have to be found; `may`: others that follow from it and may be found as well
    cause  what it has to be called; empty where values alone cannot tell
    """

    name: str
    inject: Callable[[Base], Found]
    must: frozenset[str]
    may: frozenset[str]
    cause: str


MUTATIONS: list[Mutation] = []


def skew(must: str, cause: str, may: str = "") -> Callable[[Callable[[Base], Any]], Callable[[Base], Any]]:
    """Register an injected skew; features by name, or all of a table by the table's name and a star."""

    def register(inject: Callable[[Base], Any]) -> Callable[[Base], Any]:
        def run(base: Base) -> Found:
            found = inject(base)
            return found if isinstance(found, tuple) else (found, base.project)

        MUTATIONS.append(Mutation(inject.__name__, run, _expand(must), _expand(may), cause))
        return inject

    return register


def _expand(names: str) -> frozenset[str]:
    from feature_repo.problem import PROBLEM

    found: set[str] = set()
    for name in names.split():
        found |= set(PROBLEM.table(name[:-1]).features) if name.endswith("*") else {name}
    return frozenset(found)


def _shift(base: Base, names: tuple[str, ...], by: timedelta) -> dict[str, pl.DataFrame]:
    return {name: base.frames[name].with_columns(pl.col(STAMP) + by) for name in names}


def _edit(base: Base, name: str, **columns: Any) -> dict[str, pl.DataFrame]:
    return {name: base.frames[name].with_columns(**columns)}


def _numbers(base: Base, edit: Callable[[pl.Expr], pl.Expr]) -> dict[str, pl.DataFrame]:
    return {
        table.name: base.frames[table.name].with_columns(edit(pl.col(list(table.features))))
        for table in base.project.problem.feature_tables
    }


def _with_request(base: Base, add: Callable[[pl.DataFrame], pl.DataFrame]) -> Problem:
    problem = base.project.problem
    return replace(problem, add_request_features=lambda rows: add(problem.add_request_features(rows)))


def _edit_answers(base: Base, edit: Callable[[dict[str, Any]], Mapping[str, Any]]) -> list[Prediction]:
    return [
        one._replace(features=json.dumps({**(told := json.loads(one.features)), **edit(told)}))
        for one in base.answer()
    ]


def _on_copy(base: Base) -> Base:
    # Under the base's own home, so that it goes when that goes.
    home = base.project.settings.home
    return base.copy(Path(tempfile.mkdtemp(dir=home.parent)) / "home")


# Windows, lengths and limits: a function that was changed on one side.


@skew("airport_recent* pair_recent*", "window")
def window_off_by_one(base: Base) -> Any:
    """The answers' three hours end an hour too early."""
    return base.answer(_shift(base, RECENT, HOUR))


@skew("airport_recent* pair_recent*", "definition")
def window_of_two_hours(base: Base) -> Any:
    """The answers look back two hours instead of three."""
    with changed(transforms, RECENT_HOURS=2):
        return base.answer(base.compute(*RECENT))


@skew("airport_late_7d", "", may="carrier_late_7d route_late_7d")
def window_of_six_days(base: Base) -> Any:
    """The week is one of six days."""
    table = base.project.problem.table("airport_daily")
    raw = {"arrivals": base.project.lake.read("arrivals")}
    ticks = table.ticks(find_stretch(base.project))
    six = transforms.late_shares(raw, ticks, ("origin",), "airport", (1, 6, 28))
    return base.answer({"airport_daily": six.rename({"airport_late_6d": "airport_late_7d"})})


@skew("airport_delay_3h pair_delay_3h", "definition")
def changed_cap(base: Base) -> Any:
    """Delays are capped at one hour instead of four."""
    with changed(transforms, DEPARTURE_CAP=(-30, 60)):
        return base.answer(base.compute(*RECENT))


@skew("airport_late_3h pair_late_3h", "definition")
def changed_threshold(base: Base) -> Any:
    """A departure counts as late from half an hour on."""
    with changed(transforms, LATE_MINUTES=30):
        return base.answer(base.compute(*RECENT))


# Clocks.


@skew("local_hour", "time zone", may="weekday")
def hour_shift(base: Base) -> Any:
    """The service's clock of the departure is an hour late."""
    moved = pl.col("scheduled_departure") + HOUR
    problem = base.project.problem
    add = problem.add_request_features
    return base.answer(problem=replace(problem, add_request_features=lambda r: add(r.with_columns(moved))))


@skew("local_hour weekday", "time zone")
def hour_of_utc(base: Base) -> Any:
    """The hour and the day of the week are those of UTC."""
    with changed(transforms, TIME_ZONE="UTC"):
        return base.answer()


@skew("local_hour", "time zone", may="weekday")
def clock_that_never_changes(base: Base) -> Any:
    """The hour is that of a fixed five hours behind UTC, which is wrong from 10 March on."""
    with changed(transforms, TIME_ZONE="Etc/GMT+5"):
        return base.answer()


@skew(
    "airport_weather* airport_recent* pair_recent*",
    "time zone",
    may="carrier_daily* airport_daily* route_daily*",
)
def request_read_as_local_time(base: Base) -> Any:
    """The store is asked for the local hour as if it were one of UTC."""
    local = (
        pl.col("decided_at").dt.convert_time_zone(ZONE).dt.replace_time_zone(None).dt.replace_time_zone("UTC")
    )
    return base.answer(move=lambda rows: rows.with_columns(local))


@skew("carrier_late_1d airport_late_1d", "", may="carrier_daily* airport_daily* route_daily*")
def day_of_24_hours(base: Base) -> Any:
    """Each local midnight is 24 hours after the last, so that from the clock change on it is an hour late."""
    first = base.project.day(date(2013, 3, 5)).since
    fixed = first.astimezone(UTC).time()

    def move(tick: datetime) -> datetime:
        return datetime.combine(tick.date(), time(fixed.hour), tzinfo=UTC)

    return base.answer(
        {
            name: base.frames[name].with_columns(
                pl.col(STAMP).map_elements(move, return_dtype=pl.Datetime("us", "UTC"))
            )
            for name in DAILY
        }
    )


@skew("carrier_late_1d airport_late_1d", "", may="carrier_daily* airport_daily* route_daily*")
def days_of_a_fixed_offset(base: Base) -> Any:
    """Arrivals are put to days by a clock that never changes."""
    raw = {"arrivals": base.project.lake.read("arrivals").with_columns(known_at=_fixed("known_at"))}
    ticks = base.project.problem.table("carrier_daily").ticks(find_stretch(base.project))
    problem = base.project.problem
    return base.answer({name: problem.table(name).compute(raw, ticks) for name in DAILY[:2]})


def _fixed(name: str) -> pl.Expr:
    # The instant that the New York calendar shows when a fixed clock shows what it does.
    shown = pl.col(name).dt.convert_time_zone("Etc/GMT+5").dt.replace_time_zone(None)
    return shown.dt.replace_time_zone(ZONE, ambiguous="earliest", non_existent="null").dt.convert_time_zone(
        "UTC"
    )


# Types and numbers.


@skew(
    "airport_delay_3h pair_delay_3h temp humid carrier_late_1d",
    "type",
    may="carrier_daily* airport_daily* route_daily* airport_recent* pair_recent* airport_weather* local_hour",
)
def float32(base: Base) -> Any:
    """The store keeps numbers in 32 bits."""
    return base.answer(_numbers(base, lambda e: e.cast(pl.Float32).cast(pl.Float64)))


@skew("temp dewp humid airport_delay_3h", "type", may="airport_weather* airport_recent*")
def cast_to_int(base: Base) -> Any:
    """Numbers are cut to whole ones."""
    names = ("temp", "dewp", "humid")
    cut = _edit(base, "airport_weather", **{n: pl.col(n).cast(pl.Int64).cast(pl.Float64) for n in names})
    cut |= _edit(base, "airport_recent", airport_delay_3h=pl.col("airport_delay_3h").cast(int).cast(float))
    return base.answer(cut)


@skew("airport_delay_3h", "type")
def rounding(base: Base) -> Any:
    """A mean is kept with two decimals."""
    return base.answer(_edit(base, "airport_recent", airport_delay_3h=pl.col("airport_delay_3h").round(2)))


@skew("distance", "type")
def number_as_text(base: Base) -> Any:
    """A number is journalled, and so was used, as text."""
    return _edit_answers(base, lambda told: {"distance": str(told["distance"])})


@skew("weekday", "units")
def sunday_is_zero(base: Base) -> Any:
    """The week begins with Sunday as 0."""
    return base.answer(problem=_with_request(base, lambda rows: rows.with_columns(pl.col("weekday") % 7)))


@skew("wind_speed", "units")
def metres_per_second(base: Base) -> Any:
    """Wind comes in metres per second."""
    return base.answer(_edit(base, "airport_weather", wind_speed=pl.col("wind_speed") * 0.44704))


@skew("temp", "units")
def celsius(base: Base) -> Any:
    """The temperature comes in Celsius."""
    return base.answer(_edit(base, "airport_weather", temp=(pl.col("temp") - 32) * 5 / 9))


@skew("distance", "units")
def kilometres(base: Base) -> Any:
    """The distance is taken in kilometres."""
    return base.answer(
        problem=_with_request(base, lambda rows: rows.with_columns(pl.col("distance") * 1.609344))
    )


# No value.


@skew("wind_gust", "null told as a value")
def null_to_zero(base: Base) -> Any:
    """No gust is told as one of 0."""
    return base.answer(_edit(base, "airport_weather", wind_gust=pl.col("wind_gust").fill_null(0.0)))


@skew("wind_gust", "null told as a value")
def null_to_mean(base: Base) -> Any:
    """No gust is told as the mean of all."""
    gust = pl.col("wind_gust")
    return base.answer(_edit(base, "airport_weather", wind_gust=gust.fill_null(gust.mean())))


@skew("temp", "missing online")
def lost_online(base: Base) -> Any:
    """One feature never gets online, and nothing says so."""
    return base.answer(_edit(base, "airport_weather", temp=pl.lit(None, dtype=pl.Float64)))


@skew("temp", "used although flagged")
def flagged_and_used(base: Base) -> Any:
    """Answers say that a value was expired, and used it all the same."""
    flags = json.dumps([{"feature": "temp", "kind": "expired", "got": 20_000.0}])
    return [one._replace(flags=flags) for one in base.answer()[::2]]


@skew("pair_arrival_delay_3h", "expiry", may="pair_recent*")
def expired_told_as_fresh(base: Base) -> Any:
    """The limit on age is not enforced, and over night some airlines do not move for hours."""
    tables = base.project.problem.feature_tables
    lax = replace(base.project.problem, feature_tables=tuple(replace(t, ttl=30 * DAY) for t in tables))
    return base.answer(problem=lax)


# The store's state.


@skew(
    "carrier_late_1d airport_late_1d route_late_7d",
    "stale store",
    may="carrier_daily* airport_daily* route_daily*",
)
def stale_by_a_day(base: Base) -> Any:
    """The store is a day behind."""
    return base.answer(_shift(base, DAILY, DAY))


@skew("airport_delay_3h temp", "stale store", may="airport_recent* pair_recent* airport_weather*")
def refreshed_every_third_hour(base: Base) -> Any:
    """The store is brought up to date every third hour alone."""
    third = pl.col(STAMP).dt.hour() % 3 == 0
    return base.answer({name: base.frames[name].filter(third) for name in HOURLY})


@skew("airport_delay_3h temp", "from after the request", may="airport_recent* pair_recent* airport_weather*")
def leak_from_the_future(base: Base) -> Any:
    """Answers use the next hour's values."""
    return base.answer(_shift(base, HOURLY, -HOUR))


@skew("temp pressure", "another key", may="airport_weather*")
def neighbouring_key(base: Base) -> Any:
    """Each airport gets the weather of the next one."""
    following = {"EWR": "JFK", "JFK": "LGA", "LGA": "EWR"}
    return base.answer(_edit(base, "airport_weather", origin=pl.col("origin").replace_strict(following)))


@skew("airport_late_1d airport_late_7d", "another column")
def swapped_columns(base: Base) -> Any:
    """Two columns change places on their way to the store."""
    one, other = "airport_late_1d", "airport_late_7d"
    return base.answer(_edit(base, "airport_daily", **{one: pl.col(other), other: pl.col(one)}))


@skew("origin dest", "another column")
def swapped_categories(base: Base) -> Any:
    """Origin and destination change places."""
    return _edit_answers(base, lambda told: {"origin": told["dest"], "dest": told["origin"]})


@skew("carrier", "spelling")
def lower_case(base: Base) -> Any:
    """A category is written in lower case."""
    return _edit_answers(base, lambda told: {"carrier": told["carrier"].lower()})


# Rows.


@skew("airport_delay_3h", "", may="airport_recent* pair_recent*")
def dropped_rows(base: Base) -> Any:
    """The service's pipeline loses every tenth take-off."""
    return base.answer(
        _recompute(base, "departures", lambda frame: frame.filter(pl.int_range(pl.len()) % 10 > 0))
    )


@skew("airport_flights_3h pair_flights_3h", "units", may="airport_overdue_3h pair_overdue_3h")
def duplicated_rows(base: Base) -> Any:
    """The service's pipeline reads the timetable twice."""
    return base.answer(_recompute(base, "schedule", lambda frame: pl.concat([frame, frame])))


def _recompute(base: Base, raw: str, edit: Callable[[pl.DataFrame], pl.DataFrame]) -> dict[str, pl.DataFrame]:
    problem, ticks = base.project.problem, transforms.hourly_ticks(find_stretch(base.project))
    frames = {table.name: base.project.lake.read(table.name) for table in problem.raw}
    frames[raw] = edit(frames[raw])
    return {
        name: problem.table(name).compute(frames, ticks).select(base.frames[name].columns) for name in RECENT
    }


@skew("airport_delay_3h", "late data", may="airport_recent* pair_recent*")
def late_rows(base: Base) -> Found:
    """Take-offs of a day land after the answers were given, and features are brought after."""
    copy = _on_copy(base)
    _lose_departures(copy.project)
    answers = base.answer(_rebuild(copy.project))
    day = _find_lossy_day(base.project)
    copy.project.lake.replace("departures", base.project.lake.read("departures", day), day, "known_at")
    _rebuild(copy.project)
    return answers, copy.project


@skew("airport_delay_3h", "late data", may="airport_recent* pair_recent*")
def correction_not_followed(base: Base) -> Found:
    """Raw rows were corrected in the lake, and the features were not computed again."""
    copy = _on_copy(base)
    _lose_departures(copy.project)
    return base.answer(), copy.project


def _rebuild(project: Project) -> dict[str, pl.DataFrame]:
    table, stretch = project.problem.table, find_stretch(project)
    return {name: write_features(project, table(name), stretch) for name in RECENT}


def _find_lossy_day(project: Project) -> Period:
    return project.day(date(2013, 3, 11))


def _lose_departures(project: Project) -> None:
    day = _find_lossy_day(project)
    rows = project.lake.read("departures", day)
    project.lake.replace("departures", rows.filter(pl.int_range(pl.len()) % 3 > 0), day, "known_at")


@skew("airport_delay_3h", "definition", may="airport_recent* pair_recent*")
def lake_by_another_function(base: Base) -> Found:
    """The lake's features and the answers' are those of a function that has since been edited."""
    copy = _on_copy(base)
    with changed(transforms, DEPARTURE_CAP=(-30, 60)):
        frames = _rebuild(copy.project)
    return base.answer(frames), copy.project


@skew("temp", "", may="airport_weather*")
def rows_lost_in_the_lake(base: Base) -> Found:
    """A feature table has lost an airport's rows of a day."""
    copy = _on_copy(base)
    day: Period = copy.project.day(date(2013, 3, 10))
    rows = copy.project.lake.read("airport_weather", day, STAMP, closed="right")
    kept = rows.filter(pl.col("origin") != "JFK")
    copy.project.lake.replace("airport_weather", kept, day, STAMP, closed="right")
    return base.answer(), copy.project
