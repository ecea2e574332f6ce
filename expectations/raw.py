"""What each raw batch must satisfy, for the bundled problem. Particular to the problem.

Limits come from the year 2013 and from what can be: the shortest real flight there is 17 miles (a
positioning hop), five flights left over 1,000 minutes late. Wind above 200 mph is a broken sensor.
Columns that begin with "_" are computed in `raw_checks`; a rule's words say what they compare.
"""

from datetime import timedelta

from expectations import raw_checks, rules
from expectations.rules import Rule, Severity
from feature_repo.contract import Period
from feature_repo.facts import AIRPORTS
from feature_repo.source import AIR_TIMES, DEP_DELAYS

add_check_columns = raw_checks.add_check_columns

CARRIER = rules.like("carrier", "^[A-Z0-9]{2}$", "a two-character airline code")
DEST = rules.like("dest", "^[A-Z]{3}$", "a three-letter airport code")
ORIGIN = rules.one_of("origin", AIRPORTS)


def suite(table: str, period: Period) -> list[Rule]:
    """Return the rules for one batch; volume and freshness scale with the period's length."""
    days = (period.until - period.since) / timedelta(days=1)
    rows, whole_days = {
        "schedule": (_schedule, _schedule_days),
        "departures": (_departures, _departures_days),
        "arrivals": (_arrivals, _arrivals_days),
        "weather": (_weather, _weather_days),
    }[table]
    least, most = {
        "schedule": (500, 1200),
        "departures": (150, 1300),
        "arrivals": (400, 1400),
        "weather": (36, 75),
    }[table]
    volume = rules.row_count(*_volume(days, least, most))
    if days < 0.9:
        # An hour of the night may be empty, and says nothing of the day.
        return [*rows(), volume]
    return [*rows(), volume, *whole_days(period)]


def _schedule() -> list[Rule]:
    return [
        *rules.present("flight_id", "carrier", "flight", "origin", "dest", "distance", "scheduled_departure"),
        *(*_once("flight_id"), ORIGIN, CARRIER, DEST),
        rules.between("distance", 10, 5500),
        rules.between("flight", 1, 9999),
        rules.between("sched_arr_time", 0, 2400),
        within("_minute", 0, 59, "clock times have minutes below 60"),
        rules.equal("sched_dep_time", "_hour_minute", "timetable time is its hour and minute"),
        rules.equal("sched_dep_time", "_local_time", "timetable time is the departure instant in New York"),
        within("_days_off", 0, 0, "timetable day is the departure instant's day in New York"),
        within("_distance_off", -5, 5, "distance is what it was on this route lately"),
        absent("_new_carrier", "carrier flew here in the last four weeks"),
        absent("_new_dest", "destination was flown to in the last four weeks"),
    ]


def _schedule_days(period: Period) -> list[Rule]:
    return [
        at_most("_lost_carriers", 0, "no carrier with 20 flights on each day of the last week is missing"),
        at_least("_airports", len(AIRPORTS), f"the timetable has flights from {', '.join(AIRPORTS)}"),
    ]


def _departures() -> list[Rule]:
    return [
        *rules.present(
            "flight_id", "carrier", "origin", "dest", "scheduled_departure", "dep_time", "dep_delay"
        ),
        *(*_once("flight_id"), ORIGIN, CARRIER, DEST),
        rules.like("tailnum", "^[A-Z0-9]{3,7}$", "an aircraft's registration"),
        rules.between("dep_delay", *DEP_DELAYS),
        rules.between("dep_time", 1, 2400),
        within("_minute", 0, 59, "clock times have minutes below 60"),
        *_planned(),
        within("_clock_off", 0, 0, "departure time is the timetable's plus the delay"),
    ]


def _departures_days(period: Period) -> list[Rule]:
    told = "of each {}'s flights left or were cancelled six hours after their time"
    return [
        _fresh("known_at", period, 8),
        at_least("_airport_told", 0.9, f"90% {told.format('airport')}"),
        at_least("_carrier_told", 0.7, f"70% {told.format('carrier')}"),
        at_most("_untold", 0, "each flight left or was cancelled a day after its time", "warning"),
    ]


def _arrivals() -> list[Rule]:
    return [
        *rules.present("flight_id", "carrier", "origin", "dest", "scheduled_departure", "status"),
        *(*_once("flight_id"), ORIGIN, CARRIER, DEST),
        rules.one_of("status", ("arrived", "cancelled", "diverted")),
        rules.between("dep_delay", *DEP_DELAYS),
        rules.between("arr_delay", -180, 2000),
        rules.between("arr_time", 1, 2400),
        rules.between("air_time", *AIR_TIMES),
        within("_minute", 0, 59, "clock times have minutes below 60"),
        *_planned(),
        holds("_status_fits", "status agrees with what is filled in"),
        holds("_late_fits", "late is an arrival delay of 15 minutes or more"),
        within("_clock_off", 0, 0, "arrival time is the timetable's plus the delay"),
        within("_delay_off", 0, 0, "departure delay is the one told at departure"),
        holds("_departed", "a departure is known of each flight that was not cancelled", "warning"),
        within("_speed", 50, 750, "distance by time in the air is a speed of 50 to 750 mph"),
        within("_made_up", -180, 360, "up to 3 h are made up and 6 h are lost on the way"),
        within("_after", -60, 480, "arrival is after departure, by clocks, time in the air and zones"),
    ]


def _arrivals_days(period: Period) -> list[Rule]:
    told = "of each {}'s flights have an outcome ten hours after their time"
    return [
        _fresh("known_at", period, 8),
        _fresh("scheduled_departure", period, 5),
        at_least("_airport_told", 0.9, f"90% {told.format('airport')}"),
        at_least("_carrier_told", 0.7, f"70% {told.format('carrier')}"),
    ]


def _weather() -> list[Rule]:
    return [
        *rules.present("origin", "observed_at"),
        *(*_once("origin and observed_at"), ORIGIN),
        rules.between("temp", -40, 130),
        rules.between("dewp", -60, 100),
        rules.between("humid", 0, 100),
        rules.between("wind_dir", 0, 360),
        rules.between("wind_speed", 0, 200),
        rules.between("wind_gust", 0, 200),
        rules.between("precip", 0, 5),
        rules.between("pressure", 870, 1090),
        rules.between("visib", 0, 10),
        within("_days_off", 0, 0, "day is the observation's in New York"),
        within("_hours_off", 0, 0, "hour is the observation's in New York"),
        within("_dew_below", 0, 200, "dew point is not above the temperature"),
        within("_gust_above", 0, 200, "gusts are not below the wind"),
        within("_humid_off", -40, 40, "humidity is that of temperature and dew point"),
        within("_temp_apart", -30, 30, "temperature is within 30 F of the middle airport's"),
        within("_dewp_apart", -35, 35, "dew point is within 35 F of the middle airport's"),
        within("_pressure_apart", -8, 8, "pressure is within 8 mbar of the middle airport's"),
        within("_knots_off", 0, 0.02, "wind is a whole number of knots, in mph"),
        within("_inches_off", 0, 0.01, "precipitation is in hundredths of an inch"),
    ]


def _weather_days(period: Period) -> list[Rule]:
    return [
        _fresh("known_at", period, 8),
        at_most("_humid_error", 2, "humidity is that of temperature and dew point for most hours"),
        at_most("_temp_jump", 25, "temperature changes by 25 F within an hour at most"),
        at_most("_pressure_jump", 8, "pressure changes by 8 mbar within an hour at most"),
        at_most("_repeated", 0.5, "readings are not yesterday's again"),
        at_least("_fewest_values", 2, "no sensor tells one value all day"),
        at_least("_flights_covered", 0.6, "60% of the departures have weather for their hour"),
    ]


def _once(key: str) -> tuple[Rule, ...]:
    return (
        holds("_first", "the row came once"),
        within("_versions", 1, 1, f"{key} has one row"),
        holds("_new", f"{key} has not landed before"),
    )


def _planned() -> tuple[Rule, ...]:
    return (
        holds("_planned", "the flight is in the timetable"),
        holds("_agrees", "carrier, airports and time are the timetable's"),
    )


def _volume(days: float, low: int, high: int) -> tuple[int, int]:
    # A part of a day may be empty (night). The clock changes make days of 23 and 25 hours.
    whole = int(days + 1 / 12)
    return low * whole, round(high * max(days, 1) * 1.05)


def _fresh(column: str, period: Period, hours: int) -> Rule:
    return rules.newest(column, period.until - timedelta(hours=hours), period.until + timedelta(hours=2))


# Vocabulary for check columns.


def holds(column: str, words: str, severity: Severity = "critical") -> Rule:
    """A yes-or-no column says yes; a missing answer passes."""
    arguments = {"column": column, "value_set": [True]}
    return Rule(words, "ExpectColumnValuesToBeInSet", arguments, severity=severity)


def within(column: str, low: float, high: float, words: str) -> Rule:
    """A computed number lies in [low, high]; a missing one passes."""
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Rule(words, "ExpectColumnValuesToBeBetween", arguments)


def absent(column: str, words: str) -> Rule:
    """A column that names what is odd about a row is empty; else a warning tells what it holds."""
    return Rule(words, "ExpectColumnValuesToBeNull", {"column": column}, severity="warning")


def at_least(column: str, low: float, words: str) -> Rule:
    """A number that is computed once for the batch is `low` or more."""
    arguments = {"column": column, "min_value": low}
    return Rule(words, "ExpectColumnMinToBeBetween", arguments, "batch")


def at_most(column: str, high: float, words: str, severity: Severity = "critical") -> Rule:
    """A number that is computed once for the batch is `high` or less."""
    arguments = {"column": column, "max_value": high}
    return Rule(words, "ExpectColumnMaxToBeBetween", arguments, "batch", severity)
