"""The bundled problem, stated in the terms of the seam: will this flight arrive late?

To bring your own: state this object for your data. The modules that it names are yours too.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import polars as pl

from feature_repo import congestion, lines, transforms
from feature_repo.contract import Feature, FeatureTable, Problem, RawTable
from feature_repo.facts import HORIZON, PRIOR, TIME_ZONE

OWNER = "flight-delay team"
INSTANT = pl.Datetime("us", "UTC")
FLIGHT = {"flight_id": pl.String, "carrier": pl.String, "origin": pl.String, "dest": pl.String}

RAW = (
    RawTable(
        "schedule",
        {
            "flight_id": pl.String,
            "year": pl.Int64,
            "month": pl.Int64,
            "day": pl.Int64,
            "carrier": pl.String,
            "flight": pl.Int64,
            "origin": pl.String,
            "dest": pl.String,
            "sched_dep_time": pl.Int64,
            "sched_arr_time": pl.Int64,
            "distance": pl.Int64,
            "hour": pl.Int64,
            "minute": pl.Int64,
            "time_hour": pl.String,
            "scheduled_departure": INSTANT,
            "known_at": INSTANT,
        },
        key=("flight_id",),
        ahead=timedelta(days=1),
    ),
    RawTable(
        "departures",
        {
            **FLIGHT,
            "tailnum": pl.String,
            "dep_time": pl.Int64,
            "dep_delay": pl.Int64,
            "scheduled_departure": INSTANT,
            "known_at": INSTANT,
        },
        key=("flight_id",),
    ),
    RawTable(
        "arrivals",
        {
            **FLIGHT,
            "scheduled_departure": INSTANT,
            "dep_delay": pl.Int64,
            "arr_time": pl.Int64,
            "arr_delay": pl.Int64,
            "air_time": pl.Int64,
            "status": pl.String,
            "late": pl.Int8,
            "known_at": INSTANT,
        },
        key=("flight_id",),
    ),
    RawTable(
        "weather",
        {
            "origin": pl.String,
            "year": pl.Int64,
            "month": pl.Int64,
            "day": pl.Int64,
            "hour": pl.Int64,
            **dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed"), pl.Float64),
            **dict.fromkeys(("wind_gust", "precip", "pressure", "visib"), pl.Float64),
            "time_hour": pl.String,
            "observed_at": INSTANT,
            "known_at": INSTANT,
        },
        key=("origin", "observed_at"),
    ),
)


def _daily(prefix: str, keys: tuple[str, ...], days: tuple[int, ...]) -> FeatureTable:
    return FeatureTable(
        name=f"{prefix}_daily",
        keys=keys,
        features={f"{prefix}_late_{n}d": pl.Float64 for n in days},
        reads=("arrivals",),
        every=timedelta(days=1),
        lookback=timedelta(days=max(days) + 1),
        ttl=timedelta(days=2),
        compute=partial(transforms.late_shares, keys=keys, prefix=prefix, days=days),
        ticks=transforms.daily_ticks,
        description=f"Share of late arrivals by {' and '.join(keys)} over the last {days} days.",
        owner=OWNER,
        meanings={f"{prefix}_late_{n}d": f"Share of late arrivals, {n} whole days back" for n in days},
    )


def _recent(prefix: str, keys: tuple[str, ...]) -> FeatureTable:
    meanings = {
        "delay_3h": "Mean departure delay in minutes, capped",
        "late_3h": "Share of departures that were late",
        "arrival_delay_3h": "Mean arrival delay in minutes, capped",
        "flights_3h": "Flights due to depart",
        "overdue_3h": "Share of the flights due that had not left",
    }
    return FeatureTable(
        name=f"{prefix}_recent",
        keys=keys,
        features={f"{prefix}_{name}": pl.Float64 for name in meanings},
        reads=("schedule", "departures", "arrivals"),
        every=timedelta(hours=1),
        lookback=timedelta(days=3),
        ttl=timedelta(hours=3),
        compute=partial(transforms.recent_movements, keys=keys, prefix=prefix),
        ticks=transforms.hourly_ticks,
        description=f"Departures and arrivals of the last three hours by {' and '.join(keys)}.",
        owner=OWNER,
        meanings={f"{prefix}_{name}": text for name, text in meanings.items()},
    )


def _moved(prefix: str, keys: tuple[str, ...]) -> FeatureTable:
    """Return what `_recent` says, of every key of the timetable at every tick."""
    return FeatureTable(
        name=f"{prefix}_recent",
        keys=keys,
        features={f"{prefix}_{name}_3h": pl.Float64 for name in MOVED},
        reads=("schedule", "departures", "arrivals"),
        every=timedelta(hours=1),
        lookback=timedelta(days=4),
        ttl=timedelta(hours=3),
        compute=partial(congestion.movements, keys=keys, prefix=prefix, spans=(3,)),
        ticks=transforms.hourly_ticks,
        description=f"Movements of the last three hours by {' and '.join(keys)}: a row at every full hour.",
        owner=OWNER,
        meanings={f"{prefix}_{name}_3h": f"{text}, within three hours" for name, text in MOVED.items()},
    )


MOVED = {
    "delay": "Mean departure delay in minutes, capped",
    "late": "Share of departures that were late",
    "arrival_delay": "Mean arrival delay in minutes, capped",
    "flights": "Flights due to depart",
    "overdue": "Share of the flights due that had not left",
}
TRAFFIC = {
    **{f"airport_{name}_1h": f"{MOVED[name]}, within the last hour" for name in MOVED if name != "flights"},
    **{f"airport_{name}_6h": f"{MOVED[name]}, within six hours" for name in MOVED if name != "flights"},
    **{f"city_{name}_3h": f"{text}, within three hours at all airports" for name, text in MOVED.items()},
    "city_delay_1h": "Mean departure delay in minutes, capped, within the last hour at all airports",
    "city_overdue_1h": "Share of the flights due in the last hour that had not left, at all airports",
    "airport_due": "Flights scheduled within the hour that is decided on",
    "airport_due_before": "Flights scheduled within the hour before that",
    "city_due": "Flights scheduled within the hour that is decided on, at all airports",
    "city_due_before": "Flights scheduled within the hour before that, at all airports",
}
NEARBY = {
    "near_wind": "Strongest wind at the city's other airports, mph",
    "near_precip": "Most precipitation of the hour at the city's other airports, inches",
    "near_visib": "Worst visibility at the city's other airports, miles",
}
LINE = {
    "line_late_28d": "Share of the flights of this number that arrived late, 28 whole days back",
    "line_delay_28d": "Their mean arrival delay in minutes, capped",
    "line_flights_28d": "How many of them arrived",
    "line_slack": "Minutes that the timetable allows over what the route's flights took of late",
}
WEATHER = {
    "temp": "Temperature, F",
    "dewp": "Dew point, F",
    "humid": "Relative humidity, %",
    "wind_speed": "Wind, mph",
    "wind_gust": "Gusts, mph",
    "precip": "Precipitation of the hour, inches",
    "precip_6h": "Precipitation of the six hours, inches",
    "pressure": "Pressure at sea level, hPa",
    "visib": "Visibility, miles",
    "pressure_change_3h": "Change of the pressure within three hours, hPa",
}
REQUEST = {
    "carrier": "Airline, by its two-letter code",
    "origin": "Airport of departure",
    "dest": "Airport of arrival",
    "local_hour": "Hour of the scheduled departure, New York, with its minutes as a fraction",
    "weekday": "Day of the scheduled departure, New York: Monday 1 to Sunday 7",
    "distance": "Miles between the airports",
}

TABLES = (
    _daily("carrier", ("carrier",), (1, 7, 28)),
    _daily("airport", ("origin",), (1, 7, 28)),
    _daily("route", ("origin", "dest"), (7, 28)),
    _recent("airport", ("origin",)),
    _recent("pair", ("origin", "carrier")),
    FeatureTable(
        name="airport_weather",
        keys=("origin",),
        features=dict.fromkeys(WEATHER, pl.Float64),
        reads=("weather",),
        every=timedelta(hours=1),
        lookback=timedelta(hours=12),
        ttl=timedelta(hours=3),
        compute=transforms.observed_weather,
        ticks=transforms.hourly_ticks,
        description="Last hourly observation at the airport, known by the tick.",
        owner=OWNER,
        meanings=WEATHER,
    ),
)
# What the second version of the feature service takes beside most of the first's.
ADDED = (
    # The first version has no row in a quiet hour, and so none for one flight in seventeen.
    replace(_moved("pair", ("origin", "carrier")), version=2),
    _moved("carrier", ("carrier",)),
    _moved("dest", ("dest",)),
    FeatureTable(
        name="airport_traffic",
        keys=("origin",),
        features=dict.fromkeys(TRAFFIC, pl.Float64),
        reads=("schedule", "departures", "arrivals"),
        every=timedelta(hours=1),
        lookback=timedelta(days=4),
        ttl=timedelta(hours=3),
        shares=(),
        compute=partial(congestion.airport_traffic, spans=(1, 6), city_spans=(1, 3)),
        ticks=transforms.hourly_ticks,
        description="Movements at the airport and at the city's airports together, and the flights due.",
        owner=OWNER,
        meanings=TRAFFIC,
    ),
    FeatureTable(
        name="nearby_weather",
        keys=("origin",),
        features=dict.fromkeys(NEARBY, pl.Float64),
        reads=("weather",),
        every=timedelta(hours=1),
        lookback=timedelta(hours=12),
        ttl=timedelta(hours=3),
        shares=(),
        compute=congestion.nearby_weather,
        ticks=transforms.hourly_ticks,
        description="Last hourly observations at the city's other airports, the worst of them.",
        owner=OWNER,
        meanings=NEARBY,
    ),
    FeatureTable(
        name="line_daily",
        keys=lines.LINE,
        features=dict.fromkeys(LINE, pl.Float64),
        reads=("schedule", "arrivals"),
        every=timedelta(days=1),
        lookback=timedelta(days=32),
        ttl=timedelta(days=2),
        shares=("origin",),
        compute=lines.line_history,
        ticks=transforms.daily_ticks,
        description="How flights of this number arrived over 28 days, and the slack of their timetable.",
        owner=OWNER,
        meanings=LINE,
    ),
)
TAKEN = (*(table for table in TABLES if table.name != "pair_recent"), *ADDED)

PROBLEM = Problem(
    name="flight-delay",
    entity="flight_id",
    decided_at="decided_at",
    target="late",
    prior=PRIOR,
    horizon=HORIZON,
    time_zone=TIME_ZONE,
    start=datetime(2013, 1, 1, 5, tzinfo=UTC),
    end=datetime(2014, 1, 1, 5, tzinfo=UTC),
    feature_service="flight_delay_v2",
    raw=RAW,
    feature_tables=(*TABLES, *ADDED),
    features=(
        *(Feature(n, "category", "request", REQUEST[n]) for n in ("carrier", "origin", "dest")),
        *(Feature(n, "number", "request", REQUEST[n]) for n in ("local_hour", "weekday", "distance")),
        *(Feature(name, "number", table.name) for table in TAKEN for name in table.features),
    ),
    request_fields={"scheduled_departure": INSTANT, "distance": pl.Int64},
    slices=("carrier", "origin"),
    rule_by="local_hour",
    build_requests=transforms.build_requests,
    build_outcomes=transforms.build_outcomes,
    add_request_features=transforms.add_request_features,
    calendar=frozenset({"local_hour", "weekday"}),
    owner=OWNER,
)
