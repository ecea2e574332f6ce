"""Days that differ: what the reference's own days and weeks do is no drift, what goes beyond it is."""

import numpy as np
import pytest

from flows.policy.drift import DriftColumn, fit_profile, judge_drift
from flows.policy.signals import judge_inputs
from flows.policy.unrest import bound_ordinary

CALENDAR = frozenset({"hour", "weekday"})
COLUMNS = [DriftColumn("temp", "number", 0.5), DriftColumn("load", "number", 0.5)]


def draw_days(rng, count, rows=500, first=0):
    """Days with a weather of their own in `temp`; `load` follows the hour alone."""
    days = np.repeat(np.arange(first, first + count), rows)
    hour = rng.integers(5, 23, len(days)).astype(float)
    weather = np.repeat(rng.normal(0, 2, count), rows)
    columns = {
        "temp": weather + rng.normal(0, 1, len(days)),
        "load": hour / 6 + rng.normal(0, 1, len(days)),
        "hour": hour,
        "weekday": (days % 7 + 1).astype(float),
    }
    return columns, days


@pytest.fixture(scope="module")
def reference():
    """Four weeks and the number of each row's day."""
    return draw_days(np.random.default_rng(1), 28)


@pytest.fixture(scope="module")
def profile(reference):
    """The reference made ready, its days known."""
    return fit_profile(reference[0], COLUMNS, calendar=CALENDAR, days=reference[1])


def test_a_day_with_its_own_weather_is_no_drift_where_the_references_days_are_known(reference, profile):
    """Row by row every such day drifts; day by day at most 1 of 20 does."""
    rng = np.random.default_rng(2)
    days = [draw_days(rng, 1, first=28 + i)[0] for i in range(20)]
    blind = fit_profile(reference[0], COLUMNS, calendar=CALENDAR)
    alarms = [
        [judge_inputs(side.judge(day)).state for day in days].count("alarm") for side in (blind, profile)
    ]
    assert alarms[0] >= 18
    assert alarms[1] <= 1


def test_what_no_day_does_drifts_all_the_same(profile):
    """The column that days leave alone is watched as closely as ever."""
    day = draw_days(np.random.default_rng(3), 1, first=28)[0]
    verdict = profile.judge(day | {"load": day["load"] + 1.0})
    assert [c.name for c in verdict.drifted] == ["load"]


@pytest.mark.parametrize("count", [10, 28])
def test_another_unit_is_seen_however_restless_the_values(count):
    """No weather brings what the reference has nothing like; a day a little beyond it may be weather."""
    rng = np.random.default_rng(5)
    told, days = draw_days(rng, count)
    known = fit_profile(told, COLUMNS, calendar=CALENDAR, days=days)
    day = draw_days(rng, 1, first=count)[0]
    far = known.judge(day | {"temp": day["temp"] * 10 + 100})
    assert [(c.name, c.level) for c in far.drifted] == [("temp", "large")]
    assert "unseen values" in far.drifted[0].reason
    low, high = told["temp"].min(), told["temp"].max()
    edge = known.judge(day | {"temp": np.clip(day["temp"], low, high) + (high - low) / 2})
    assert "unseen values" not in " ".join(c.reason for c in edge.drifted)


def test_a_feed_that_goes_null_is_seen_however_restless_its_values(profile):
    """Nulls are compared apart."""
    rng = np.random.default_rng(4)
    day = draw_days(rng, 1, first=28)[0]
    lost = np.where(rng.random(len(day["temp"])) < 0.3, np.nan, day["temp"])
    verdict = profile.judge(day | {"temp": lost})
    assert "PSI of its nulls" in next(c for c in verdict.drifted if c.name == "temp").reason


@pytest.mark.parametrize(
    "broken", [lambda h: np.full_like(h, 5.0), lambda h: (h + 9) % 24, lambda h: np.full_like(h, np.nan)]
)
@pytest.mark.parametrize("length", [1, 7])
def test_a_broken_clock_is_seen_though_every_column_is_turned_by_it(reference, broken, length):
    """Hours that are all the same, in another zone or null are drift of the calendar."""
    held = fit_profile(reference[0], COLUMNS[1:], calendar=CALENDAR, days=reference[1])
    window = draw_days(np.random.default_rng(5), length, first=28)[0]
    assert judge_inputs(held.judge(window, length)).state == "ok"
    signal = judge_inputs(held.judge(window | {"hour": broken(window["hour"])}, length))
    assert (signal.state, "hour" in signal.reason) == ("alarm", True)


def test_a_single_weekday_is_a_days_nature_and_a_weeks_defect(profile):
    """Each day has one weekday; a week with one has lost six."""
    rng = np.random.default_rng(6)
    week = draw_days(rng, 7, first=28)[0] | {"weekday": np.full(3_500, 1.0)}
    assert not [c for c in profile.judge(draw_days(rng, 1, first=28)[0]).calendar if c.level != "none"]
    assert [c.name for c in profile.judge(week, 7).calendar if c.level != "none"] == ["weekday"]


def test_rows_of_hours_that_the_reference_lacks_are_compared_on_neither_side():
    """A column that follows the hour does not drift by them, and their share alarms."""
    rng = np.random.default_rng(7)
    hour = {"held": rng.integers(5, 15, 9_000), "now": rng.integers(5, 22, 3_000)}
    hour["held"] = np.where(hour["held"] < 12, hour["held"], 4)  # few values: each hour is a stratum
    sides = {n: {"hour": h.astype(float), "load": h + rng.normal(0, 1, len(h))} for n, h in hour.items()}
    sides["now"]["hour"] = np.where(hour["now"] >= 12, np.nan, hour["now"]).astype(float)
    near = hour["now"] < 14
    window = {n: v[near] for n, v in sides["now"].items()}
    verdict = judge_drift(
        sides["held"], window, [DriftColumn("load", "number")], calendar=frozenset({"hour"})
    )
    assert verdict.unmatched == int(np.isnan(window["hour"]).sum())
    assert (verdict.columns[0].level, judge_inputs(verdict).state) == ("none", "alarm")
    assert "hours that the reference lacks" in judge_inputs(verdict).reason


def test_a_reference_of_few_days_says_so_and_doubts_more():
    """Under five days nothing is known of days: chance counts more, in words too."""
    columns, days = draw_days(np.random.default_rng(8), 3)
    window = draw_days(np.random.default_rng(9), 1, first=3)[0]
    known, blind = (
        judge_drift(columns, window, COLUMNS, calendar=CALENDAR, days=side) for side in (days, None)
    )
    assert "under 5 days" in known.reasons[-1]
    assert known.columns[1].by_chance == pytest.approx(3 * blind.columns[1].by_chance)


def test_alike_days_widen_nothing():
    """Of days that differ by chance alone the bound stays under a tenth of the customary limit."""
    rng = np.random.default_rng(10)
    columns, days = draw_days(rng, 28)
    bounds = fit_profile(columns, COLUMNS, calendar=CALENDAR, days=rng.permutation(days)).unrest.columns[1]
    assert bounds.max() < 0.02


def test_an_ordinary_block_stays_under_the_bound_as_often_as_it_says():
    """Of 2,000 distances of chi-square with two degrees of freedom about 1% lie above the bound at 1%."""
    rng = np.random.default_rng(11)
    held, fresh = (rng.chisquare(2, (2_000, 1)) for _ in range(2))
    above = float(np.mean(fresh > bound_ordinary(held, np.zeros_like(held), 0.01)))
    print(f"above the bound at 1%: {above:.4f}")
    assert above <= 0.03
