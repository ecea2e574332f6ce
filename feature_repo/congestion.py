"""Features of what goes on around a flight: movements, flights due, the weather next door. Pure.

As in transforms.py, what is returned for a tick uses only rows known before it. Every key that anything
may be asked of has a row at each tick, so that a quiet hour is a count of 0 and not a value that is missing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from feature_repo.contract import Frames
from feature_repo.facts import AIRPORTS, DECIDE_AHEAD, LATE_MINUTES
from feature_repo.transforms import ARRIVAL_CAP, DEPARTURE_CAP, STAMP

TIMETABLE = timedelta(days=2)  # a timetable known before is over: it covers the day after the one it came on
HOUR = timedelta(hours=1)


def movements(
    raw: Frames, ticks: Sequence[datetime], keys: Sequence[str], prefix: str, spans: Sequence[int]
) -> pl.DataFrame:
    """Return, per key of the timetable and full hour, how the last `spans` hours went: [tick - n h, tick).

    Take-offs and landings count from when they were known. A flight is overdue at a tick if it was
    scheduled within the span and had not left by the tick; a cancelled one looks the same.
    """
    return _add_movements(_list_keys(raw["schedule"], ticks, keys), raw, keys, prefix, spans)


def airport_traffic(
    raw: Frames, ticks: Sequence[datetime], spans: Sequence[int], city_spans: Sequence[int]
) -> pl.DataFrame:
    """Return, per airport and full hour, its movements, those of all airports together, and what is due.

    A decision falls into the hour that follows a tick, so the flight decided on leaves in [tick + 2 h,
    tick + 3 h): `due` counts the flights scheduled in that hour, `due_before` those in the hour before.
    """
    grid = _make_grid(ticks)
    found = _add_movements(grid, raw, ["origin"], "airport", spans)
    city = {name: frame.with_columns(city=pl.lit("city")) for name, frame in raw.items()}
    ticked = grid.select(STAMP, city=pl.lit("city")).unique()
    together = _add_movements(ticked, city, ["city"], "city", city_spans).drop("city")
    found = found.join(together, on=STAMP, how="left")
    due = raw["schedule"].group_by("origin", at=pl.col("scheduled_departure").dt.truncate("1h")).len("due")
    for name, ahead in (("due", DECIDE_AHEAD), ("due_before", DECIDE_AHEAD - HOUR)):
        shifted = due.select(
            "origin", (pl.col("at") - ahead).alias(STAMP), _count("due").alias(f"airport_{name}")
        )
        found = found.join(shifted, on=["origin", STAMP], how="left")
        found = found.with_columns(pl.col(f"airport_{name}").fill_null(0.0))
        found = found.with_columns(pl.col(f"airport_{name}").sum().over(STAMP).alias(f"city_{name}"))
    return found


def nearby_weather(raw: Frames, ticks: Sequence[datetime]) -> pl.DataFrame:
    """Return, per airport and full hour, the worst of what was just observed at the other airports."""
    seen = raw["weather"].select(
        "origin", _next_hour("known_at").alias(STAMP), "wind_speed", "precip", "visib"
    )
    pairs = pl.DataFrame(
        [{"origin": here, "near": there} for here in AIRPORTS for there in AIRPORTS if here != there]
    )
    return (
        pairs.join(seen.filter(pl.col(STAMP).is_in(list(ticks))), left_on="near", right_on="origin")
        .group_by("origin", STAMP)
        .agg(
            near_wind=pl.col("wind_speed").max(),
            near_precip=pl.col("precip").max(),
            near_visib=pl.col("visib").min(),
        )
    )


def _add_movements(
    grid: pl.DataFrame, raw: Frames, keys: Sequence[str], prefix: str, spans: Sequence[int]
) -> pl.DataFrame:
    """Return a grid of keys and ticks with what was known to have moved within each span of hours."""
    on = [*keys, STAMP]
    left = (
        raw["departures"]
        .group_by(*keys, hour=_next_hour("known_at"))
        .agg(
            pl.len().cast(pl.Int64).alias("left"),
            pl.col("dep_delay").clip(*DEPARTURE_CAP).sum().alias("delay"),
            (pl.col("dep_delay") >= LATE_MINUTES).cast(pl.Int64).sum().alias("late"),
        )
    )
    arrived = raw["arrivals"].filter(pl.col("late").is_not_null())
    landed = arrived.group_by(*keys, hour=_next_hour("known_at")).agg(
        pl.len().cast(pl.Int64).alias("landed"),
        pl.col("arr_delay").clip(*ARRIVAL_CAP).sum().alias("arrival_delay"),
    )
    departed = raw["departures"].select("flight_id", departed_at="known_at")
    asked = raw["schedule"].select("flight_id", *keys, "scheduled_departure")
    asked = asked.join(departed, on="flight_id", how="left")
    for span in spans:
        # What moved is in the spans of the ticks that follow it within the span's hours.
        gone = _spread(left, "hour", span).group_by(on).agg(pl.col("left", "delay", "late").sum())
        come = _spread(landed, "hour", span).group_by(on).agg(pl.col("landed", "arrival_delay").sum())
        due = _spread(asked.with_columns(hour=_next_hour("scheduled_departure")), "hour", span)
        waits = pl.col("departed_at").is_null() | (pl.col("departed_at") >= pl.col(STAMP))
        due = due.group_by(on).agg(pl.len().alias("due"), waits.cast(pl.Int64).sum().alias("waiting"))
        found = grid.select(on)
        for part in (gone, come, due):
            found = found.join(part, on=on, how="left")
        grid = grid.join(found.select(*on, *_describe_span(prefix, span)), on=on, how="left")
    return grid


def _describe_span(prefix: str, span: int) -> list[pl.Expr]:
    """Return what is said of a span: means and shares of what there was, null where there was nothing."""
    shares = {"delay": "left", "late": "left", "arrival_delay": "landed", "waiting": "due"}
    names = {"waiting": "overdue"}
    told = [
        pl.when(pl.col(of) > 0)
        .then(pl.col(name) / pl.col(of))
        .alias(f"{prefix}_{names.get(name, name)}_{span}h")
        for name, of in shares.items()
    ]
    counts = (("due", "flights"), ("left", "departures"), ("landed", "landings"))
    return told + [_count(name).alias(f"{prefix}_{called}_{span}h") for name, called in counts]


def _list_keys(schedule: pl.DataFrame, ticks: Sequence[datetime], keys: Sequence[str]) -> pl.DataFrame:
    """Return every key of the timetables that hold at each tick."""
    told = schedule.select(*keys, hour=_next_hour("known_at")).unique()
    spread = _spread(told, "hour", TIMETABLE // HOUR).select(*keys, STAMP).unique()
    return spread.filter(pl.col(STAMP).is_in(list(ticks)))


def _make_grid(ticks: Sequence[datetime]) -> pl.DataFrame:
    stamps = pl.Series(STAMP, list(ticks), pl.Datetime("us", "UTC")).to_frame()
    return pl.DataFrame({"origin": AIRPORTS}).join(stamps, how="cross")


def _spread(frame: pl.DataFrame, hour: str, hours: int) -> pl.DataFrame:
    """Return each row once a tick of the `hours` from `hour` on, as the tick's."""
    ticks = [pl.col(hour) + pl.duration(hours=i) for i in range(hours)]
    return frame.with_columns(pl.concat_list(ticks).alias(STAMP)).explode(STAMP)


def _next_hour(at: str) -> pl.Expr:
    return pl.col(at).dt.truncate("1h") + pl.duration(hours=1)


def _count(name: str) -> pl.Expr:
    return pl.col(name).fill_null(0).cast(pl.Float64)
