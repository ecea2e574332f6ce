"""Damage to whole columns: swapped, in another unit, with another sign, on another clock."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import polars as pl

from tests.damage.harness import CLOCK_CHANGE, DAMAGES, Delivery, landed, stopped

TOO_MANY = "of rows quarantined"
HOUR = "%Y-%m-%dT%H:%M:%SZ"
FLIGHT_TABLES = ("schedule", "departures", "arrivals")


def _flights(d: Delivery, **columns: pl.Expr) -> Delivery:
    return replace(d, flights=d.flights.with_columns(**columns))


def _weather(d: Delivery, **columns: pl.Expr) -> Delivery:
    return replace(d, weather=d.weather.with_columns(**columns))


def _whole(minutes: pl.Expr) -> pl.Expr:
    return minutes.round().cast(pl.Int64)


def _moved(by: timedelta) -> pl.Expr:
    return (pl.col("time_hour").str.to_datetime(HOUR) + by).dt.strftime(HOUR)


def _celsius(column: str) -> pl.Expr:
    return (pl.col(column) - 32) / 1.8


@DAMAGES.rows(departures=stopped(TOO_MANY), arrivals=stopped(TOO_MANY))
def departure_and_arrival_times_swapped(d: Delivery) -> Delivery:
    """The columns of departure and arrival times changed places."""
    return _flights(d, dep_time=pl.col("arr_time"), arr_time=pl.col("dep_time"))


@DAMAGES.rows(departures=stopped(TOO_MANY), arrivals=stopped(TOO_MANY))
def delays_swapped(d: Delivery) -> Delivery:
    """The columns of departure and arrival delays changed places."""
    return _flights(d, dep_delay=pl.col("arr_delay"), arr_delay=pl.col("dep_delay"))


@DAMAGES.rows(**{t: stopped(TOO_MANY) for t in FLIGHT_TABLES})
def airports_swapped(d: Delivery) -> Delivery:
    """Origins and destinations changed places."""
    return _flights(d, origin=pl.col("dest"), dest=pl.col("origin"))


@DAMAGES.rows(schedule=stopped(TOO_MANY))
def timetable_columns_swapped(d: Delivery) -> Delivery:
    """Scheduled departure and arrival times changed places; today's timetable landed yesterday."""
    return _flights(d, sched_dep_time=pl.col("sched_arr_time"), sched_arr_time=pl.col("sched_dep_time"))


@DAMAGES.rows(weather=stopped(TOO_MANY))
def temperature_and_dew_point_swapped(d: Delivery) -> Delivery:
    """The columns of temperature and dew point changed places."""
    return _weather(d, temp=pl.col("dewp"), dewp=pl.col("temp"))


@DAMAGES.rows(departures=stopped(TOO_MANY), arrivals=stopped(TOO_MANY))
def delays_in_hours(d: Delivery) -> Delivery:
    """Delays are in whole hours."""
    return _flights(d, **{c: _whole(pl.col(c) / 60) for c in ("dep_delay", "arr_delay")})


@DAMAGES.rows(departures=stopped(TOO_MANY), arrivals=stopped(TOO_MANY))
def delays_in_seconds(d: Delivery) -> Delivery:
    """Delays are in seconds."""
    return _flights(d, dep_delay=pl.col("dep_delay") * 60, arr_delay=pl.col("arr_delay") * 60)


@DAMAGES.rows(arrivals=stopped(TOO_MANY))
def time_in_the_air_in_hours(d: Delivery) -> Delivery:
    """Time in the air is in whole hours."""
    return _flights(d, air_time=_whole(pl.col("air_time") / 60))


@DAMAGES.rows(schedule=stopped(TOO_MANY))
def distance_in_kilometres(d: Delivery) -> Delivery:
    """Distances are in kilometres."""
    return _flights(d, distance=_whole(pl.col("distance") * 1.609344))


@DAMAGES.rows(schedule=stopped(TOO_MANY))
def constant_distance(d: Delivery) -> Delivery:
    """Every flight has the same distance."""
    return _flights(d, distance=pl.lit(1000, pl.Int64))


@DAMAGES.rows(weather=stopped("humidity is that of"))
def temperature_in_celsius(d: Delivery) -> Delivery:
    """Temperature and dew point are in Celsius: possible ones, but not with this humidity."""
    return _weather(d, temp=_celsius("temp"), dewp=_celsius("dewp"))


@DAMAGES.rows(weather=stopped(TOO_MANY))
def temperature_in_kelvin(d: Delivery) -> Delivery:
    """Temperature and dew point are in Kelvin."""
    return _weather(d, temp=_celsius("temp") + 273.15, dewp=_celsius("dewp") + 273.15)


@DAMAGES.rows(weather=stopped(TOO_MANY))
def pressure_in_inches(d: Delivery) -> Delivery:
    """Pressure is in inches of mercury."""
    return _weather(d, pressure=pl.col("pressure") / 33.8639)


@DAMAGES.rows(weather=stopped(TOO_MANY))
def wind_in_knots(d: Delivery) -> Delivery:
    """Wind is in knots, 13% below miles an hour."""
    return _weather(d, wind_speed=pl.col("wind_speed") / 1.15078, wind_gust=pl.col("wind_gust") / 1.15078)


@DAMAGES.rows(weather=stopped(TOO_MANY))
def wind_in_metres_a_second(d: Delivery) -> Delivery:
    """Wind is in metres a second."""
    return _weather(d, wind_speed=pl.col("wind_speed") * 0.44704, wind_gust=pl.col("wind_gust") * 0.44704)


@DAMAGES.rows(weather=stopped(TOO_MANY))
def visibility_in_kilometres(d: Delivery) -> Delivery:
    """Visibility is in kilometres: ten miles are sixteen."""
    return _weather(d, visib=pl.col("visib") * 1.609344)


@DAMAGES.rows(weather=stopped(TOO_MANY))
def rain_in_millimetres(d: Delivery) -> Delivery:
    """Precipitation is in millimetres. On a dry day it would be 0 either way, and do no harm."""
    return _weather(d, precip=pl.col("precip") * 25.4)


@DAMAGES.rows(departures=stopped(TOO_MANY), arrivals=stopped(TOO_MANY))
def departure_delay_with_its_sign_flipped(d: Delivery) -> Delivery:
    """Departure delays are minutes ahead of time."""
    return _flights(d, dep_delay=-pl.col("dep_delay"))


@DAMAGES.rows(arrivals=stopped(TOO_MANY))
def arrival_delay_with_its_sign_flipped(d: Delivery) -> Delivery:
    """Arrival delays are minutes ahead of time."""
    return _flights(d, arr_delay=-pl.col("arr_delay"))


@DAMAGES.rows(**{t: stopped(TOO_MANY) for t in FLIGHT_TABLES})
def clock_an_hour_ahead(d: Delivery) -> Delivery:
    """Instants are an hour later than their local times."""
    return _flights(d, time_hour=_moved(timedelta(hours=1)))


@DAMAGES.rows(**{t: stopped(TOO_MANY) for t in FLIGHT_TABLES})
def local_time_written_as_utc(d: Delivery) -> Delivery:
    """Instants are local time that says it is UTC: four hours early."""
    return _flights(d, time_hour=_moved(timedelta(hours=-4)))


@DAMAGES.rows(weather=stopped(TOO_MANY))
def weather_in_local_time_written_as_utc(d: Delivery) -> Delivery:
    """The weather's instants are local time that says it is UTC."""
    return _weather(d, time_hour=_moved(timedelta(hours=-4)))


@DAMAGES.rows(day=CLOCK_CHANGE, **{t: stopped(TOO_MANY) for t in FLIGHT_TABLES})
def clocks_that_did_not_change(d: Delivery) -> Delivery:
    """On the day of the clock change the source went on with winter time."""
    return _flights(d, time_hour=_moved(timedelta(hours=1)))


@DAMAGES.rows(day=CLOCK_CHANGE, weather=stopped(TOO_MANY))
def weather_clocks_that_did_not_change(d: Delivery) -> Delivery:
    """On the day of the clock change the weather's local hours went on in winter time."""
    hour = (pl.col("time_hour").str.to_datetime(HOUR) - timedelta(hours=5)).dt.hour().cast(pl.Int64)
    return _weather(d, hour=hour)


@DAMAGES.rows(day=CLOCK_CHANGE)
def day_of_the_clock_change(d: Delivery) -> Delivery:
    """Nothing is wrong with a day of 23 hours."""
    return d


@DAMAGES.rows(schedule=stopped(TOO_MANY), departures=stopped(TOO_MANY), arrivals=stopped(TOO_MANY))
def date_off_by_one_day(d: Delivery) -> Delivery:
    """Dates are a day late, instants are right."""
    return _flights(d, day=pl.col("day") + 1)


@DAMAGES.rows(weather=stopped(TOO_MANY))
def weather_date_off_by_one_day(d: Delivery) -> Delivery:
    """The weather's dates are a day late, its instants are right."""
    return _weather(d, day=pl.col("day") + 1)


@DAMAGES.rows(departures=stopped("rows"), arrivals=stopped("rows"))
def whole_day_moved_to_the_next(d: Delivery) -> Delivery:
    """Dates and instants are a day late: of today there is nothing, and nobody left of those due.

    A Tuesday's timetable is a possible one of Wednesday: nothing in it says that it moved.
    """
    return _flights(d, day=pl.col("day") + 1, time_hour=_moved(timedelta(days=1)))


@DAMAGES.rows(departures=stopped("rows"), arrivals=stopped("rows"), schedule=stopped("rows"))
def day_and_month_swapped(d: Delivery) -> Delivery:
    """12 March is written as 3 December, in dates and in instants: of today there is nothing."""
    swapped = pl.col("time_hour").str.replace(r"-03-(\d\d)T", "-${1}-03T")
    return _flights(d, day=pl.col("month"), month=pl.col("day").clip(1, 12), time_hour=swapped)


@DAMAGES.rows(weather=landed())
def weather_an_hour_late_throughout(d: Delivery) -> Delivery:
    """Readings stand one hour late, local hour and all: nothing in the data says so, and it lands.

    Each value is possible, agrees with its neighbours and has a plausible yesterday.
    """
    held = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    return replace(d, weather=d.weather.with_columns(pl.col(held).shift(1).backward_fill().over("origin")))


def _shuffled(*columns: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(pl.col(c).shuffle(seed=7) for c in columns)


@DAMAGES.rows(arrivals=stopped(TOO_MANY))
def delays_shuffled_between_flights(d: Delivery) -> Delivery:
    """Arrival delays, the label, belong to other flights."""
    return replace(d, flights=_shuffled("arr_delay")(d.flights))


@DAMAGES.rows(**{t: stopped(TOO_MANY) for t in FLIGHT_TABLES})
def destinations_shuffled_between_flights(d: Delivery) -> Delivery:
    """Destinations belong to other flights."""
    return replace(d, flights=_shuffled("dest")(d.flights))


@DAMAGES.rows(weather=stopped("humidity is that of"))
def temperatures_shuffled_between_hours(d: Delivery) -> Delivery:
    """Temperatures belong to other hours."""
    return replace(d, weather=_shuffled("temp")(d.weather))


@DAMAGES.rows()
def every_flight_later_by_twenty_minutes(d: Delivery) -> Delivery:
    """Each flight left and arrived 20 minutes later than it did, with clocks and delays that agree.

    No row is wrong in itself, and a day of fog looks the same: it lands. Drift and the model's quality
    are watched for what a batch cannot know.
    """

    def later(column: str) -> pl.Expr:
        minutes = pl.col(column) // 100 * 60 + pl.col(column) % 100 + 20
        return (minutes - 1) % 1440 + 1

    def clock(column: str) -> pl.Expr:
        return later(column) // 60 * 100 + later(column) % 60

    moved = {c: clock(c) for c in ("dep_time", "arr_time")}
    return _flights(d, **moved, **{c: pl.col(c) + 20 for c in ("dep_delay", "arr_delay")})


@DAMAGES.rows(weather=stopped("pressure changes by"))
def pressure_on_another_scale(d: Delivery) -> Delivery:
    """All barometers are 30 mbar low together: a possible pressure, but not within an hour."""
    return _weather(d, pressure=pl.col("pressure") - 30)
