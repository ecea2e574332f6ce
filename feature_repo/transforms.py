"""Each feature's one computation, pure. Both paths, offline and online, are fed by these functions.

Ticks are instants in UTC. What a function returns for a tick uses only rows known before it, so that
the tick at a batch's end is settled by that batch.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from feature_repo.contract import Frames, Period
from feature_repo.facts import DECIDE_AHEAD, LATE_MINUTES, RECENT_HOURS, TIME_ZONE

STAMP = "event_timestamp"
# A delay is capped before it is averaged: one flight a day late says little about the next.
DEPARTURE_CAP, ARRIVAL_CAP = (-30, 240), (-60, 240)


def hourly_ticks(period: Period) -> list[datetime]:
    """Return the full hours in (since, until]."""
    tick = period.since.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    ticks = []
    while tick <= period.until:
        ticks.append(tick)
        tick += timedelta(hours=1)
    return ticks


def daily_ticks(period: Period) -> list[datetime]:
    """Return the local midnights in (since, until], in UTC: 23, 24 or 25 hours apart."""
    zone = ZoneInfo(TIME_ZONE)
    day = period.since.astimezone(zone).date()
    ticks = []
    while (tick := datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)) <= period.until:
        if tick > period.since:
            ticks.append(tick)
        day += timedelta(days=1)
    return ticks


def build_requests(raw: Frames) -> pl.DataFrame:
    """Return one row a scheduled flight: what a client sends, two hours before departure."""
    return (
        raw["schedule"]
        .select("flight_id", "carrier", "flight", "origin", "dest", "distance", "scheduled_departure")
        .with_columns(decided_at=pl.col("scheduled_departure") - DECIDE_AHEAD)
        .sort("decided_at", "flight_id")
    )


def build_outcomes(raw: Frames) -> pl.DataFrame:
    """Return one row a known outcome; `late` is null where the flight never arrived."""
    return raw["arrivals"].select("flight_id", "late", "status", "known_at")


def add_request_features(requests: pl.DataFrame) -> pl.DataFrame:
    """Add `local_hour` (0 to 24, New York) and `weekday` (Monday 1 to Sunday 7) of the departure."""
    local = pl.col("scheduled_departure").dt.convert_time_zone(TIME_ZONE)
    return requests.with_columns(
        local_hour=local.dt.hour().cast(pl.Float64) + local.dt.minute() / 60,
        weekday=local.dt.weekday().cast(pl.Float64),
        distance=pl.col("distance").cast(pl.Float64),
    )


def late_shares(
    raw: Frames, ticks: Sequence[datetime], keys: Sequence[str], prefix: str, days: Sequence[int]
) -> pl.DataFrame:
    """Return, per key and local midnight, the share of late arrivals over each of the last `days`."""
    local_day = pl.col("known_at").dt.convert_time_zone(TIME_ZONE).dt.date()
    per_day = (
        raw["arrivals"]
        .filter(pl.col("late").is_not_null())
        .group_by(*keys, day=local_day)
        .agg(late=pl.col("late").cast(pl.Int64).sum(), flights=pl.len().cast(pl.Int64))
    )
    frames = []
    for tick in ticks:
        today = tick.astimezone(ZoneInfo(TIME_ZONE)).date()
        shares = {}
        for n in days:
            within = pl.col("day").is_between(today - timedelta(days=n), today, closed="left")
            late, flights = pl.col("late").filter(within).sum(), pl.col("flights").filter(within).sum()
            shares[f"{prefix}_late_{n}d"] = pl.when(flights > 0).then(late / flights)
        past = per_day.filter(
            pl.col("day").is_between(today - timedelta(days=max(days)), today, closed="left")
        )
        frames.append(past.group_by(*keys).agg(**shares).with_columns(_stamp(tick)))
    return pl.concat(frames) if frames else pl.DataFrame()


def recent_movements(
    raw: Frames, ticks: Sequence[datetime], keys: Sequence[str], prefix: str
) -> pl.DataFrame:
    """Return, per key and full hour, how the last RECENT_HOURS went: [tick - 3 h, tick).

    Take-offs and landings count from when they were known. A flight is overdue at a tick if it was
    scheduled within the window and had not left by the tick; a cancelled one looks the same.
    """
    left = (
        _in_windows(raw["departures"], "known_at")
        .group_by(*keys, STAMP)
        .agg(
            pl.col("dep_delay").clip(*DEPARTURE_CAP).mean().alias(f"{prefix}_delay_3h"),
            (pl.col("dep_delay") >= LATE_MINUTES).mean().alias(f"{prefix}_late_3h"),
        )
    )
    landed = _in_windows(raw["arrivals"].filter(pl.col("late").is_not_null()), "known_at")
    landed = landed.group_by(*keys, STAMP).agg(
        pl.col("arr_delay").clip(*ARRIVAL_CAP).mean().alias(f"{prefix}_arrival_delay_3h")
    )
    departed = raw["departures"].select("flight_id", departed_at="known_at")
    due = _in_windows(raw["schedule"], "scheduled_departure").join(departed, on="flight_id", how="left")
    waiting = pl.col("departed_at").is_null() | (pl.col("departed_at") >= pl.col(STAMP))
    due = due.group_by(*keys, STAMP).agg(
        pl.len().cast(pl.Float64).alias(f"{prefix}_flights_3h"),
        waiting.mean().alias(f"{prefix}_overdue_3h"),
    )
    on = [*keys, STAMP]
    joined = left.join(landed, on=on, how="full", coalesce=True).join(due, on=on, how="full", coalesce=True)
    return joined.filter(pl.col(STAMP).is_in(list(ticks)))


def observed_weather(raw: Frames, ticks: Sequence[datetime]) -> pl.DataFrame:
    """Return, per airport and full hour, the observation just made and how it has changed."""
    seen = raw["weather"].sort("origin", "observed_at")
    # Summed as whole hundredths: a running sum of floats depends on where the batch began.
    hundredths = (pl.col("precip") * 100).round().cast(pl.Int64)
    rain = seen.rolling("observed_at", period="6h", group_by="origin").agg(precip_6h=hundredths.sum() / 100)
    before = seen.select(
        "origin", pl.col("observed_at").dt.offset_by("3h"), pressure_before=pl.col("pressure")
    )
    on = ["origin", "observed_at"]
    return (
        seen.join(rain, on=on)
        .join(before, on=on, how="left")
        .select(
            "origin",
            _next_hour("known_at").alias(STAMP),
            *("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "precip_6h", "pressure", "visib"),
            pressure_change_3h=pl.col("pressure") - pl.col("pressure_before"),
        )
        .filter(pl.col(STAMP).is_in(list(ticks)))
    )


def _in_windows(frame: pl.DataFrame, at: str) -> pl.DataFrame:
    # Each row belongs to the windows of the RECENT_HOURS full hours that follow it.
    hours = [_next_hour(at) + pl.duration(hours=i) for i in range(RECENT_HOURS)]
    return frame.with_columns(pl.concat_list(hours).alias(STAMP)).explode(STAMP)


def _next_hour(at: str) -> pl.Expr:
    return pl.col(at).dt.truncate("1h") + pl.duration(hours=1)


def _stamp(tick: datetime) -> pl.Expr:
    return pl.lit(tick).cast(pl.Datetime("us", "UTC")).alias(STAMP)
