"""What goes on around a flight is counted as it was known, and a quiet hour is a row of zeros."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from feature_repo.congestion import airport_traffic, movements, nearby_weather
from feature_repo.contract import Frames, Period
from feature_repo.facts import AIRPORTS
from feature_repo.problem import PROBLEM
from feature_repo.source import open_source
from feature_repo.transforms import hourly_ticks, recent_movements

TICK = datetime(2013, 5, 1, 15, tzinfo=UTC)
KEYS = ["origin", "carrier"]
HOUR = timedelta(hours=1)


def empty() -> dict[str, pl.DataFrame]:
    return {table.name: pl.DataFrame(schema=dict(table.schema)) for table in PROBLEM.raw}


def make_raw(*flights: dict) -> dict[str, pl.DataFrame]:
    """Return the raw tables of some flights: each scheduled at `due`, gone at `left` with a delay."""
    told = {"carrier": "UA", "origin": "EWR", "dest": "IAH"}
    known = (TICK - timedelta(days=1)).replace(hour=4)
    rows = [{**told, "flight_id": f"f{n}", **flight} for n, flight in enumerate(flights)]
    raw = empty()
    schedule = [{**row, "scheduled_departure": row["due"], "known_at": known} for row in rows]
    gone = [{**row, "known_at": row["left"], "dep_delay": row["delay"]} for row in rows if "left" in row]
    for name, given in (("schedule", schedule), ("departures", gone)):
        schema = raw[name].schema
        raw[name] = pl.DataFrame(
            [{k: v for k, v in row.items() if k in schema} for row in given], schema=schema
        )
    return raw


def test_a_quiet_hour_has_a_row_of_every_key_of_the_timetable() -> None:
    """Nothing moved: counts are 0, means are null, and no key is missing."""
    raw = make_raw({"due": TICK + 9 * HOUR}, {"due": TICK + 9 * HOUR, "carrier": "DL"})
    found = movements(raw, [TICK], KEYS, "pair", (3,)).sort("carrier")
    assert found["carrier"].to_list() == ["DL", "UA"]
    assert found["pair_flights_3h"].to_list() == [0, 0]
    assert found["pair_delay_3h"].to_list() == [None, None]


def test_a_key_is_forgotten_when_its_timetable_is_over() -> None:
    """Two days after it was told a timetable says nothing of who flies."""
    raw = make_raw({"due": TICK + 9 * HOUR})
    assert len(movements(raw, [TICK + timedelta(days=2)], KEYS, "pair", (3,))) == 0


def test_a_flight_counts_once_it_has_left() -> None:
    """Before its departure is known it is overdue; at the tick after it, it is a delay."""
    raw = make_raw({"due": TICK - 2 * HOUR, "left": TICK, "delay": 120})
    before, after = movements(raw, [TICK, TICK + HOUR], KEYS, "pair", (3,)).sort("event_timestamp").to_dicts()
    assert (before["pair_overdue_3h"], before["pair_delay_3h"]) == (1, None)
    assert (after["pair_overdue_3h"], after["pair_delay_3h"]) == (0, 120)


def test_a_span_reaches_as_far_back_as_it_says() -> None:
    """A departure two hours ago is within three hours, and not within one."""
    raw = make_raw({"due": TICK - 2 * HOUR, "left": TICK - 2 * HOUR, "delay": 0})
    (row,) = movements(raw, [TICK], KEYS, "pair", (1, 3)).to_dicts()
    assert (row["pair_departures_1h"], row["pair_departures_3h"]) == (0, 1)


def test_the_city_is_all_airports_together() -> None:
    """Each airport's row tells its own delay, and the same mean over all of them."""
    left = {"due": TICK - HOUR, "left": TICK - HOUR}
    raw = make_raw({**left, "delay": 10}, {**left, "delay": 50, "origin": "JFK"})
    found = {row["origin"]: row for row in airport_traffic(raw, [TICK], (1,), (3,)).to_dicts()}
    assert {name: row["airport_delay_1h"] for name, row in found.items()} == {
        "EWR": 10,
        "JFK": 50,
        "LGA": None,
    }
    assert {row["city_delay_3h"] for row in found.values()} == {30}


def test_what_is_due_is_the_hour_that_is_decided_on() -> None:
    """A flight at half past five is decided on at half past three, with the tick of three o'clock."""
    raw = make_raw({"due": TICK + timedelta(hours=2, minutes=30)}, {"due": TICK + 4 * HOUR})
    rows = airport_traffic(raw, [TICK, TICK + HOUR], (1,), (3,)).filter(pl.col("origin") == "EWR")
    now, later = rows.sort("event_timestamp").to_dicts()
    assert (now["airport_due"], now["airport_due_before"], now["city_due"]) == (1, 0, 1)
    assert (later["airport_due"], later["airport_due_before"]) == (0, 1)


def test_a_day_without_any_row_is_a_day_of_zeros() -> None:
    """Every airport has a row, though nothing is known of it."""
    found = airport_traffic(empty(), [TICK], (1, 6), (1, 3))
    assert sorted(found["origin"]) == sorted(AIRPORTS)
    assert set(found["city_flights_3h"]) == set(found["airport_due"]) == {0.0}
    assert found["city_delay_3h"].null_count() == len(AIRPORTS)


def test_the_weather_next_door_is_that_of_the_others() -> None:
    """An airport's own storm is not its neighbours'."""
    seen = pl.DataFrame(
        {
            "origin": list(AIRPORTS),
            "wind_speed": [50.0, 10.0, 20.0],
            "precip": [0.0, 0.1, 0.3],
            "visib": [1.0, 9.0, 10.0],
            "known_at": [TICK - timedelta(minutes=5)] * 3,
        },
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )
    found = {row["origin"]: row for row in nearby_weather({"weather": seen}, [TICK]).to_dicts()}
    first, second, _ = AIRPORTS
    assert (found[first]["near_wind"], found[first]["near_precip"], found[first]["near_visib"]) == (
        20,
        0.3,
        9,
    )
    assert (found[second]["near_wind"], found[second]["near_visib"]) == (50, 1)


@pytest.fixture(scope="module")
def raw() -> Frames:
    """Return the raw tables around the day on which the clocks go forward."""
    reach = Period(datetime(2013, 3, 6, 5, tzinfo=UTC), datetime(2013, 3, 11, 4, tzinfo=UTC))
    return {table.name: open_source()(table.name, reach).frame for table in PROBLEM.raw}


def test_movements_are_those_of_the_first_version(raw: Frames) -> None:
    """Where the first version has a row, over a clock change too, the second says the same."""
    ticks = hourly_ticks(Period(datetime(2013, 3, 9, 5, tzinfo=UTC), datetime(2013, 3, 11, 4, tzinfo=UTC)))
    first = recent_movements(raw, ticks, KEYS, "pair").drop_nulls(KEYS)
    second = movements(raw, ticks, KEYS, "pair", (3,))
    on = [*KEYS, "event_timestamp"]
    joined = first.join(second, on=on, how="left", suffix="_2")
    assert len(first) > 500
    assert len(second) > len(first)
    for name in ("pair_delay_3h", "pair_late_3h", "pair_arrival_delay_3h", "pair_overdue_3h"):
        assert joined[name].null_count() == joined[f"{name}_2"].null_count()
        assert (joined[name] - joined[f"{name}_2"]).abs().max() < 1e-9
    assert (joined["pair_flights_3h"].fill_null(0) == joined["pair_flights_3h_2"]).all()
