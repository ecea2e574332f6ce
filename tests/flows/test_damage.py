"""Damaged deliveries are caught or let through as they should be; `make prove AREA=data` does all kinds."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from tests.damage.catalogue import KINDS, MODULES
from tests.damage.harness import Damage, build_base, run

QUICK = (
    "added_column",
    "reordered_columns",
    "cut_off_within_a_line",
    "duplicated_file",
    "stale_readings_with_new_dates",
    "nulls_in_the_key",
    "flights_without_a_date",
    "new_carrier",
    "duplicated_rows",
    "delays_swapped",
    "temperature_in_celsius",
    "clocks_that_did_not_change",
    "airport_missing",
    "stuck_sensor",
)
CHOSEN = [damage for damage in KINDS if damage.name in QUICK]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Mapping[date, Path]:
    """Return homes of four clean weeks, by the day that comes next."""
    return build_base(tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize("damage", CHOSEN, ids=lambda damage: damage.name)
def test_damage_has_its_outcome(damage: Damage, base: Mapping[date, Path], tmp_path: Path) -> None:
    """What stops, is kept back, is refused or lands is what should, table by table."""
    assert run(damage, base, tmp_path).problems == ()


def test_each_kind_of_damage_is_named_and_explained() -> None:
    """At least 40 kinds, each with a name of its own and one line that says what it is; none is forgotten."""
    names = [damage.name for damage in KINDS]
    assert len(names) == len(set(names)) >= 40
    assert [damage.name for damage in KINDS if not damage.says.strip()] == []
    written = {
        name
        for module in MODULES
        for name, value in vars(module).items()
        if callable(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert written - set(names) <= {"few", "set_flights", "set_weather"}
    assert set(QUICK) <= set(names)
