"""Damage to single values and rows: what a few rows say is wrong, and the others land."""

from collections.abc import Iterable
from dataclasses import replace

import polars as pl

from tests.damage.harness import DAMAGES, Delivery, quarantined, warned


def few(where: pl.Expr, rows: int, start: int = 20) -> pl.Expr:
    """Return an expression that picks `rows` of the rows that `where` holds for."""
    return where & where.cum_sum().is_between(start + 1, start + rows)


def set_flights(delivery: Delivery, where: pl.Expr, **values: object) -> Delivery:
    """Return the delivery with values set in the flights that `where` picks."""
    return replace(delivery, flights=_set(delivery.flights, where, values.items()))


def set_weather(delivery: Delivery, where: pl.Expr, **values: object) -> Delivery:
    """Return the delivery with values set in the observations that `where` picks."""
    return replace(delivery, weather=_set(delivery.weather, where, values.items()))


def _set(frame: pl.DataFrame, where: pl.Expr, values: Iterable[tuple[str, object]]) -> pl.DataFrame:
    kinds = frame.schema
    new = {
        name: pl.when(where)
        .then(value if isinstance(value, pl.Expr) else pl.lit(value, dtype=kinds[name]))
        .otherwise(name)
        .cast(kinds[name])
        for name, value in values
    }
    return frame.with_columns(**new)


ARRIVED = pl.col("arr_delay").is_not_null()
OFF_CLOCK = "time is the timetable's plus the delay"
EACH_HOUR = pl.col("origin").is_not_null()


@DAMAGES.rows(
    departures=quarantined(10, "carrier is present"), arrivals=quarantined(10, "carrier is present")
)
def nulls_in_the_key(d: Delivery) -> Delivery:
    """Ten flights of today have no carrier."""
    return set_flights(d, few(d.today & ARRIVED, 10), carrier=None)


@DAMAGES.rows(
    departures=quarantined(10, "flight_id is present"), arrivals=quarantined(10, "flight_id is present")
)
def flights_without_a_date(d: Delivery) -> Delivery:
    """Ten flights of today have no year: they are filed with the row before them, and kept back."""
    return set_flights(d, few(d.today & ARRIVED, 10), year=None)


@DAMAGES.rows(
    departures=quarantined(10, "flight_id is present"), arrivals=quarantined(10, "flight_id is present")
)
def days_that_do_not_exist(d: Delivery) -> Delivery:
    """Ten flights of today are dated 39 March."""
    return set_flights(d, few(d.today & ARRIVED, 10), day=39)


@DAMAGES.rows(
    departures=quarantined(10, "scheduled_departure is present"),
    arrivals=quarantined(10, "scheduled_departure is present"),
)
def hours_that_cannot_be_read(d: Delivery) -> Delivery:
    """Ten flights of today have an hour in another format."""
    return set_flights(d, few(d.today & ARRIVED, 10), time_hour="12.03.2013 10h")


@DAMAGES.rows(schedule=quarantined(10, "timetable day is"))
def dates_of_1970(d: Delivery) -> Delivery:
    """Ten flights of tomorrow have the default date of 1970, but their true hour."""
    return set_flights(d, few(d.tomorrow, 10), year=1970, month=1, day=1)


@DAMAGES.rows(schedule=quarantined(10, "timetable day is"))
def hours_of_1970(d: Delivery) -> Delivery:
    """Ten flights of tomorrow have the default hour of 1970, but their true date."""
    return set_flights(d, few(d.tomorrow, 10), time_hour="1970-01-01T00:00:00Z")


@DAMAGES.rows(arrivals=quarantined(10, "status agrees"))
def no_time_in_the_air(d: Delivery) -> Delivery:
    """Ten flights arrived and have no time in the air, from which their arrival is dated."""
    return set_flights(d, few(d.today & ARRIVED, 10), air_time=None)


@DAMAGES.rows(departures=quarantined(10, "dep_delay is present"), arrivals=quarantined(10, "status agrees"))
def no_departure_delay(d: Delivery) -> Delivery:
    """Ten flights left and have no departure delay."""
    return set_flights(d, few(d.today & ARRIVED, 10), dep_delay=None)


@DAMAGES.rows(departures=quarantined(10, "dep_time is present"))
def no_departure_time(d: Delivery) -> Delivery:
    """Ten flights left and have no departure time."""
    return set_flights(d, few(d.today & ARRIVED, 10), dep_time=None)


@DAMAGES.rows(arrivals=quarantined(10, "arr_delay lies between"))
def arrival_delay_of_9999(d: Delivery) -> Delivery:
    """Ten flights have 9999, a default, for their arrival delay."""
    return set_flights(d, few(d.today & ARRIVED, 10), arr_delay=9999)


@DAMAGES.rows(
    departures=quarantined(10, "dep_delay lies between"), arrivals=quarantined(10, "dep_delay lies between")
)
def departure_delay_of_minus_9999(d: Delivery) -> Delivery:
    """Ten flights have -9999 for their departure delay: a week ago, if one believed it."""
    return set_flights(d, few(d.today & ARRIVED, 10), dep_delay=-9999)


@DAMAGES.rows(departures=quarantined(10, OFF_CLOCK), arrivals=quarantined(10, "departure delay is"))
def departure_delay_of_zero(d: Delivery) -> Delivery:
    """Ten late flights have 0, a default, for their departure delay."""
    return set_flights(d, few(d.today & ARRIVED & (pl.col("dep_delay") > 5), 10), dep_delay=0)


@DAMAGES.rows(departures=quarantined(1, "dep_delay lies between"), arrivals=quarantined(1, "dep_delay lies"))
def one_far_outlier(d: Delivery) -> Delivery:
    """One flight left 5,000 minutes late."""
    return set_flights(d, few(d.today & ARRIVED, 1), dep_delay=5000)


@DAMAGES.rows(arrivals=quarantined(1, OFF_CLOCK))
def one_near_outlier(d: Delivery) -> Delivery:
    """One arrival delay is 30 minutes off: its clock times tell."""
    return set_flights(d, few(d.today & ARRIVED, 1), arr_delay=pl.col("arr_delay") + 30)


@DAMAGES.rows(departures=quarantined(5, "dep_time lies between"))
def times_after_midnight_as_25_10(d: Delivery) -> Delivery:
    """Five departure times are 2510, ten past one on the day after."""
    return set_flights(d, few(d.today & ARRIVED, 5), dep_time=2510)


@DAMAGES.rows(departures=quarantined(5, "minutes below 60"))
def times_with_ninety_minutes(d: Delivery) -> Delivery:
    """Five departure times say 90 minutes past an hour that is one earlier: the same instant, no clock's."""
    full = d.today & ARRIVED & (pl.col("dep_time") % 100 == 30)
    return set_flights(d, few(full, 5, start=2), dep_time=pl.col("dep_time") - 100 + 60)


@DAMAGES.rows(arrivals=quarantined(5, "air_time lies between"))
def negative_time_in_the_air(d: Delivery) -> Delivery:
    """Five flights were in the air for less than no time."""
    return set_flights(d, few(d.today & ARRIVED, 5), air_time=-pl.col("air_time"))


@DAMAGES.rows(arrivals=quarantined(5, "a speed of"))
def time_in_the_air_of_a_rocket(d: Delivery) -> Delivery:
    """Five flights to the west coast took half an hour."""
    return set_flights(d, few(d.today & ARRIVED & (pl.col("distance") > 2000), 5), air_time=30)


@DAMAGES.rows(arrivals=quarantined(5, "arrival is after departure"))
def arrival_before_departure(d: Delivery) -> Delivery:
    """Five flights arrived an hour and a half before they left, by their clock; the delay agrees."""
    early = few(d.today & ARRIVED & pl.col("dep_time").is_between(1200, 1359) & (pl.col("distance") < 800), 5)
    before = pl.col("dep_time") - 300 - pl.col("dep_time") % 100
    planned = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    delay = before // 100 * 60 - planned
    return set_flights(d, early, arr_time=before, arr_delay=delay)


@DAMAGES.rows(arrivals=quarantined(5, "status agrees"))
def arrived_and_did_not(d: Delivery) -> Delivery:
    """Five flights have an arrival time and a time in the air, and no arrival delay."""
    return set_flights(d, few(d.today & ARRIVED, 5), arr_delay=None)


@DAMAGES.rows(
    departures=quarantined(10, "carrier is a two-character"), arrivals=quarantined(10, "two-character")
)
def codes_in_small_letters(d: Delivery) -> Delivery:
    """Ten carrier codes of today are in small letters."""
    carrier = pl.col("carrier").str.to_lowercase()
    return set_flights(d, few(d.today & ARRIVED & (pl.col("carrier") != "9E"), 10), carrier=carrier)


@DAMAGES.rows(
    departures=quarantined(10, "carrier is a two-character"), arrivals=quarantined(10, "two-character")
)
def codes_with_blanks(d: Delivery) -> Delivery:
    """Ten carrier codes of today begin with a blank."""
    return set_flights(d, few(d.today & ARRIVED, 10), carrier=pl.lit(" ") + pl.col("carrier"))


@DAMAGES.rows(departures=quarantined(10, "aircraft's registration"))
def registrations_of_dashes(d: Delivery) -> Delivery:
    """Ten aircraft are called "--"."""
    return set_flights(d, few(d.today & ARRIVED, 10), tailnum="--")


@DAMAGES.rows(departures=quarantined(5, "in the timetable"), arrivals=quarantined(5, "in the timetable"))
def unannounced_flights(d: Delivery) -> Delivery:
    """Five flights left under numbers that no timetable has."""
    return set_flights(d, few(d.today & ARRIVED, 5), flight=pl.col("flight") + 7001)


@DAMAGES.rows(
    departures=quarantined(5, "the timetable's"), arrivals=quarantined(5, "carrier, airports and time are")
)
def another_destination_than_planned(d: Delivery) -> Delivery:
    """Five flights left for another airport than the timetable told."""
    return set_flights(d, few(d.today & ARRIVED & (pl.col("dest") != "ORD"), 5), dest="ORD")


@DAMAGES.rows(schedule=quarantined(5, "on this route lately"))
def distance_of_another_route(d: Delivery) -> Delivery:
    """Five flights of tomorrow have a distance that their route never had."""
    return set_flights(d, few(d.tomorrow, 5), distance=pl.col("distance") + 100)


@DAMAGES.rows(schedule=quarantined(5, "its hour and minute"))
def hour_beside_its_time(d: Delivery) -> Delivery:
    """Five flights of tomorrow have an hour that is not that of their time."""
    return set_flights(d, few(d.tomorrow, 5), hour=pl.col("hour") - 1)


@DAMAGES.rows(schedule=warned("carrier flew here in the last four weeks, but: ZZ"))
def new_carrier(d: Delivery) -> Delivery:
    """A carrier that never flew here has twenty flights tomorrow: that happens, and is told."""
    return set_flights(d, few(d.tomorrow, 20), carrier="ZZ", flight=pl.int_range(pl.len()) + 1)


@DAMAGES.rows(schedule=warned("flown to in the last four weeks, but: YYZ"))
def new_destination(d: Delivery) -> Delivery:
    """Three flights of tomorrow go where none went before: that happens, and is told."""
    return set_flights(d, few(d.tomorrow, 3), dest="YYZ", distance=366)


@DAMAGES.rows(departures=quarantined(30, "the row came once"), arrivals=quarantined(30, "the row came once"))
def duplicated_rows(d: Delivery) -> Delivery:
    """Thirty rows of today are there twice: one of each lands."""
    again = d.flights.filter(few(d.today & ARRIVED & (pl.col("dep_time") < 1500), 30))
    return replace(d, flights=pl.concat([d.flights, again]))


@DAMAGES.rows(departures=quarantined(10, "has one row"), arrivals=quarantined(10, "has one row"))
def two_versions_of_a_flight(d: Delivery) -> Delivery:
    """Five flights are there twice and differ: which one is true cannot be told, so neither lands."""
    again = d.flights.filter(few(d.today & ARRIVED & (pl.col("dep_time") < 1500), 5))
    other = again.with_columns(dep_time=pl.col("dep_time") + 1, dep_delay=pl.col("dep_delay") + 1)
    other = other.with_columns(arr_time=pl.col("arr_time") + 1, arr_delay=pl.col("arr_delay") + 1)
    return replace(d, flights=pl.concat([d.flights, other]))


@DAMAGES.rows(departures=quarantined(3, "not landed before"), arrivals=quarantined(3, "not landed before"))
def yesterdays_flights_again(d: Delivery) -> Delivery:
    """Three flights that landed yesterday are told again, with departures that fall on today."""
    from datetime import timedelta

    from tests.damage.harness import bundled

    before = pl.date("year", "month", "day") == d.day - timedelta(days=1)
    again = bundled("flights").filter(few(before & ARRIVED & pl.col("dep_time").is_between(900, 1100), 3))
    late = [(pl.col(c) + 1440).alias(c) for c in ("dep_delay", "arr_delay")]
    return replace(d, flights=pl.concat([d.flights, again.with_columns(late)]))


@DAMAGES.rows(weather=quarantined(1, "temp lies between"))
def temperature_of_999(d: Delivery) -> Delivery:
    """One temperature is 999, a default."""
    return set_weather(d, few(EACH_HOUR, 1), temp=999.0)


@DAMAGES.rows(weather=quarantined(1, "middle airport's"))
def temperature_of_zero(d: Delivery) -> Delivery:
    """One temperature is 0, a default that would be possible on another day."""
    return set_weather(d, few(EACH_HOUR, 1), temp=0.0, dewp=0.0)


@DAMAGES.rows(weather=quarantined(2, "pressure lies between"))
def pressure_of_zero(d: Delivery) -> Delivery:
    """Two pressures are 0, a default."""
    return set_weather(d, few(EACH_HOUR & pl.col("pressure").is_not_null(), 2, start=5), pressure=0.0)


@DAMAGES.rows(weather=quarantined(2, "dew point is not above"))
def dew_point_above_the_temperature(d: Delivery) -> Delivery:
    """Two dew points are above their temperature."""
    return set_weather(d, few(EACH_HOUR, 2), dewp=pl.col("temp") + 5)


@DAMAGES.rows(weather=quarantined(2, "gusts are not below"))
def gusts_below_the_wind(d: Delivery) -> Delivery:
    """Two gusts are slower than the wind."""
    return set_weather(d, few(EACH_HOUR, 2), wind_speed=20 * 1.15078, wind_gust=10 * 1.15078)


@DAMAGES.rows(weather=quarantined(2, "origin is one of"))
def another_airports_weather(d: Delivery) -> Delivery:
    """Two observations are of Boston."""
    return set_weather(d, few(EACH_HOUR, 2), origin="BOS")


@DAMAGES.rows(weather=quarantined(3, "observed_at is present"))
def weather_without_an_hour(d: Delivery) -> Delivery:
    """Three observations have no time."""
    return set_weather(d, few(EACH_HOUR, 3), time_hour=None)
