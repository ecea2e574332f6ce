"""Damage to a batch as a whole: parts that are missing, too much of it, values that wear out over weeks."""

from dataclasses import replace
from datetime import timedelta

import polars as pl

from tests.damage.harness import DAMAGES, DAY, Delivery, stopped, warned
from tests.damage.units import TOO_MANY
from tests.damage.values import ARRIVED, few, set_flights, set_weather

TOLD, OUTCOMES = "flights left or were cancelled", "flights have an outcome"


@DAMAGES.rows(schedule=stopped("rows"), departures=stopped("rows"), arrivals=stopped("rows"))
def empty_day(d: Delivery) -> Delivery:
    """There is no flight today or tomorrow."""
    return replace(d, flights=d.flights.clear())


@DAMAGES.rows(schedule=stopped("rows"))
def timetable_of_half_a_day(d: Delivery) -> Delivery:
    """Tomorrow's timetable ends at noon."""
    return replace(d, flights=d.flights.filter(~(d.tomorrow & (pl.col("hour") >= 12))))


@DAMAGES.rows(departures=stopped("newest known_at"), arrivals=stopped("newest scheduled_departure"))
def afternoon_missing(d: Delivery) -> Delivery:
    """What happened after 14:00 today is not there."""
    return replace(d, flights=d.flights.filter(~(d.today & (pl.col("hour") >= 14))))


@DAMAGES.rows(departures=stopped(TOLD), arrivals=stopped(OUTCOMES))
def morning_missing(d: Delivery) -> Delivery:
    """What happened from 8:00 to 11:00 today is not there."""
    return replace(d, flights=d.flights.filter(~(d.today & pl.col("hour").is_between(8, 10))))


@DAMAGES.rows(schedule=stopped("has flights from"), departures=stopped(TOLD), arrivals=stopped(OUTCOMES))
def airport_missing(d: Delivery) -> Delivery:
    """No flight from LaGuardia is there."""
    return replace(d, flights=d.flights.filter(pl.col("origin") != "LGA"))


@DAMAGES.rows(schedule=stopped("no carrier"), departures=stopped(TOLD), arrivals=stopped(OUTCOMES))
def carrier_missing(d: Delivery) -> Delivery:
    """No flight of US Airways, 7% of all, is there."""
    return replace(d, flights=d.flights.filter(pl.col("carrier") != "US"))


@DAMAGES.rows(schedule=stopped("no carrier"))
def carrier_renamed(d: Delivery) -> Delivery:
    """From tomorrow on a carrier has another code."""
    return set_flights(d, d.tomorrow & (pl.col("carrier") == "US"), carrier="U5")


@DAMAGES.rows(weather=stopped("rows"))
def weather_of_half_a_day(d: Delivery) -> Delivery:
    """The weather ends at noon."""
    return replace(d, weather=d.weather.filter(pl.col("hour") < 11))


@DAMAGES.rows(weather=stopped("have weather for their hour"))
def weather_of_one_airport(d: Delivery) -> Delivery:
    """Only one airport tells its weather from noon on."""
    return replace(d, weather=d.weather.filter((pl.col("origin") == "EWR") | (pl.col("hour") < 10)))


@DAMAGES.rows(schedule=stopped("rows"))
def doubled_volume(d: Delivery) -> Delivery:
    """Every flight of tomorrow is there again under another number."""
    again = d.flights.filter(d.tomorrow).with_columns(flight=pl.col("flight") + 3000)
    return replace(d, flights=pl.concat([d.flights, again]))


@DAMAGES.rows(days=2, departures=warned("a day after its time"))
def flights_dated_a_year_ahead(d: Delivery) -> Delivery:
    """Thirty flights of the day are dated a year ahead: the day after tells that they never left.

    Until their own date comes they are not due: a file may tell of the future.
    """
    if d.day != DAY:
        return d
    late = d.flights.filter(few(d.today & ARRIVED & pl.col("hour").is_between(10, 16), 30))
    ahead = late.with_columns(
        year=pl.col("year") + 1, time_hour=pl.col("time_hour").str.replace("2013", "2014")
    )
    rest = d.flights.join(late, on=["month", "day", "carrier", "flight", "origin"], how="anti")
    return replace(d, flights=pl.concat([rest, ahead]))


@DAMAGES.rows(weather=stopped("one value all day"))
def stuck_sensor(d: Delivery) -> Delivery:
    """Newark's thermometer shows one value all day."""
    return set_weather(d, pl.col("origin") == "EWR", temp=45.0)


@DAMAGES.rows(weather=stopped("one value all day"))
def constant_column(d: Delivery) -> Delivery:
    """Pressure is one value everywhere, all day."""
    return replace(d, weather=d.weather.with_columns(pressure=pl.lit(1013.0)))


@DAMAGES.rows(weather=stopped("temp"))
def column_gone_null(d: Delivery) -> Delivery:
    """No observation has a temperature."""
    return replace(d, weather=d.weather.with_columns(temp=pl.lit(None, pl.Float64)))


@DAMAGES.rows(arrivals=stopped(TOO_MANY))
def label_gone_null(d: Delivery) -> Delivery:
    """No flight has an arrival delay, from which the label is computed."""
    return replace(d, flights=d.flights.with_columns(arr_delay=pl.lit(None, pl.Int64)))


@DAMAGES.rows(arrivals=stopped(TOO_MANY))
def all_flights_on_time(d: Delivery) -> Delivery:
    """Every arrival delay is 0, a default."""
    return replace(d, flights=d.flights.with_columns(arr_delay=pl.col("arr_delay") * 0))


def _share_of(d: Delivery, column: str) -> pl.Expr:
    worn = (d.day - DAY + timedelta(days=1)).days / 100
    return pl.int_range(pl.len()).shuffle(seed=d.day.toordinal()) < pl.len() * worn


@DAMAGES.rows(days=28, weather=stopped("temp"))
def nulls_creeping_up_in_temperature(d: Delivery) -> Delivery:
    """From day to day 1% more of the temperatures are missing."""
    return set_weather(d, _share_of(d, "temp"), temp=None)


@DAMAGES.rows(days=28, departures=stopped("tailnum"))
def nulls_creeping_up_in_registrations(d: Delivery) -> Delivery:
    """From day to day 1% more of the aircraft have no registration."""
    return set_flights(d, _share_of(d, "tailnum"), tailnum=None)


@DAMAGES.rows(days=10, arrivals=stopped(TOO_MANY))
def nulls_creeping_up_in_time_in_the_air(d: Delivery) -> Delivery:
    """From day to day 1% more of the flights have no time in the air: kept back, then too many."""
    return set_flights(d, _share_of(d, "air_time") & ARRIVED, air_time=None)
