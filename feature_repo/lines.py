"""Features of a line, the flights of one number from one airport: how they went, and the timetable. Pure.

Each line of the day's timetable has a row, so that a new one is a value that is null and not missing.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from feature_repo.contract import Frames
from feature_repo.facts import TIME_ZONE
from feature_repo.transforms import ARRIVAL_CAP, STAMP

LINE, ROUTE = ("origin", "carrier", "flight"), ("origin", "dest")
DAY_MINUTES = 24 * 60
REMEMBERED = 28  # days that a line, or a route, is looked back on


def line_history(raw: Frames, ticks: Sequence[datetime]) -> pl.DataFrame:
    """Return, per line and local midnight, how it arrived over the last 28 days, and its slack.

    The slack is what the line's newest timetable allows over what flights of the route took of late, in
    minutes: how much of a delay can be made up on the way.
    """
    told = _list_blocks(raw["schedule"])
    flown = _list_flown(raw["arrivals"], told)
    frames = []
    for tick in ticks:
        today = tick.astimezone(ZoneInfo(TIME_ZONE)).date()
        known = told.filter(pl.col("known_at") < tick)
        stamp = pl.lit(tick).cast(pl.Datetime("us", "UTC")).alias(STAMP)
        frames.append(_describe_lines(flown, known, today).with_columns(stamp))
    return pl.concat(frames) if frames else pl.DataFrame()


def _list_blocks(schedule: pl.DataFrame) -> pl.DataFrame:
    """Return flights with `block`, the minutes from one local time of the timetable to the other.

    The zones of the two differ, but for a route by the same every day; so it is compared within a route.
    """
    leaves, arrives = (
        pl.col(f"sched_{at}_time") // 100 * 60 + pl.col(f"sched_{at}_time") % 100 for at in ("dep", "arr")
    )
    return schedule.select(
        "flight_id",
        "origin",
        "carrier",
        "dest",
        "known_at",
        flight=pl.col("flight").cast(pl.String),
        block=(arrives - leaves) % DAY_MINUTES,
        day=pl.date("year", "month", "day"),
    )


def _list_flown(arrivals: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return the flights that arrived, with the day on which that was known and what each took."""
    arrived = arrivals.filter(pl.col("late").is_not_null())
    timetable = told.select("flight_id", *LINE, "dest", "block")
    return (
        arrived.select("flight_id", "late", "arr_delay", "dep_delay", "known_at")
        .join(timetable, on="flight_id")
        .select(
            *LINE,
            "dest",
            day=pl.col("known_at").dt.convert_time_zone(TIME_ZONE).dt.date(),
            late=pl.col("late").cast(pl.Int64),
            delay=pl.col("arr_delay").clip(*ARRIVAL_CAP),
            took=pl.col("block") + pl.col("arr_delay") - pl.col("dep_delay"),
        )
    )


def _describe_lines(flown: pl.DataFrame, told: pl.DataFrame, today: date) -> pl.DataFrame:
    first = today - timedelta(days=REMEMBERED)
    past = flown.filter(pl.col("day").is_between(first, today, closed="left"))
    took = past.group_by(ROUTE).agg(pl.col("took").sum(), flown=pl.col("took").count())
    # A line's newest timetable holds: today's if it flies today.
    lines = told.filter(pl.col("day").is_between(first, today)).sort("day", "flight_id")
    lines = lines.group_by(LINE).agg(pl.col("dest", "block").last())
    history = past.group_by(LINE).agg(
        line_late_28d=pl.col("late").sum() / pl.len(),
        line_delay_28d=pl.col("delay").sum() / pl.len(),
        line_flights_28d=pl.len().cast(pl.Float64),
    )
    slack = pl.when(pl.col("flown") > 0).then(pl.col("block") - pl.col("took") / pl.col("flown"))
    return (
        lines.join(took, on=ROUTE, how="left")
        .join(history, on=LINE, how="left")
        .select(
            *LINE,
            "line_late_28d",
            "line_delay_28d",
            pl.col("line_flights_28d").fill_null(0.0),
            line_slack=slack,
        )
    )
