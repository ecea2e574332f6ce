"""The maturity curve, and what the command shows of it."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.outcomes_maturity import draw_maturity

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HORIZON = 10 * HOUR


def asked(*hours):
    """Things asked about at these hours."""
    return pl.DataFrame(
        {"entity": [f"e{h}" for h in hours], "requested_at": [NOON + h * HOUR for h in hours]}
    )


def known(told):
    """Labels: the hour asked at, and that at which the label came."""
    return pl.DataFrame(
        {"entity": [f"e{h}" for h in told], "known_at": [NOON + h * HOUR for h in told.values()]},
        schema={"entity": pl.String, "known_at": pl.Datetime("us", "UTC")},
    )


def shares(curve):
    """The curve's points by age in hours."""
    return {point.age / HOUR: (point.asked, point.arrived) for point in curve}


def test_the_curve_counts_only_what_is_old_enough_to_tell():
    """A thing asked about an hour ago says nothing about the age of five hours."""
    curve = draw_maturity(asked(0, 1, 19), known({0: 2, 1: 9}), HORIZON, NOON + 20 * HOUR)
    points = shares(curve)
    assert points[1.0] == (3, 0)
    assert points[2.0] == (2, 1)
    assert points[10.0] == (2, 2)


def test_what_became_known_later_is_not_on_the_curve_of_before():
    """The curve is drawn as it stood at its instant."""
    curve = draw_maturity(asked(0), known({0: 8}), HORIZON, NOON + 7 * HOUR)
    assert shares(curve)[5.0] == (1, 0)
    assert [point.share for point in curve if point.age == HORIZON] == [None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_shows_a_home_without_outcomes(tmp_path):
    """Nothing told yet: no fate, an empty curve, and no error."""
    from flows.cli.app import app

    shown = CliRunner().invoke(app, ["--home", str(tmp_path), "outcomes", "--json"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.output)
    assert told["fates"] == {}
    assert {point["asked"] for point in told["curve"]} == {0}
    assert CliRunner().invoke(app, ["--home", str(tmp_path), "outcomes", "--fate", "lost"]).exit_code == 2
