"""Drift: an effect size beyond chance, column by column, weighted by what the model relies on."""

import numpy as np
import pytest

from flows.policy.bins import fit_bins
from flows.policy.drift import DriftColumn, DriftPolicy, fit_profile, judge_drift, measure_psi

COLUMNS = [
    DriftColumn("x", "number", 0.6),
    DriftColumn("spiky", "number", 0.1),
    DriftColumn("gappy", "number", 0.1),
    DriftColumn("few", "number", 0.1),
    DriftColumn("place", "category", 0.1),
]


def draw(rng, rows, shift=0.0):
    """Columns like production's: smooth, mostly zero, mostly null, few values, many categories."""
    x = rng.normal(shift, 1, rows)
    return {
        "x": x,
        "spiky": np.where(rng.random(rows) < 0.95, 0.0, rng.exponential(1, rows)),
        "gappy": np.where(rng.random(rows) < 0.8, np.nan, rng.normal(0, 1, rows)),
        "few": rng.integers(0, 4, rows).astype(float),
        "place": rng.choice([f"p{i}" for i in range(60)], rows, p=np.arange(60) / 1770).astype(object),
    }


@pytest.mark.parametrize("rows", [100, 500, 2_000, 10_000])
def test_windows_of_the_same_population_do_not_drift(rows):
    """A/A: of 300 windows at most 1% may call any column drifted, however small the window."""
    rng = np.random.default_rng(7)
    reference = draw(rng, 10_000)
    profile = fit_profile(reference, COLUMNS)
    verdicts = [profile.judge(draw(rng, rows)) for _ in range(300)]
    alarms = sum(any(c.level != "none" for c in v.columns) for v in verdicts)
    print(f"A/A, {rows} rows: {alarms} of 300 windows name a drifted column")
    assert alarms <= 3
    assert all(v.drifted_importance == 0 for v in verdicts)


def test_by_chance_alone_the_psi_is_what_the_formula_says():
    """The expected PSI without drift is (bins - 1)(1/n + 1/m)."""
    rng = np.random.default_rng(1)
    start = np.array([0])
    sizes = [
        measure_psi(
            rng.multinomial(5_000, [0.1] * 10).astype(float),
            rng.multinomial(300, [0.1] * 10).astype(float),
            start,
            0.05,
        )[:, 0]
        for _ in range(400)
    ]
    psi, expected, _, _ = np.mean(sizes, axis=0)
    assert psi == pytest.approx(expected, rel=0.05)


def test_the_bound_lies_below_the_true_effect_as_often_as_it_says():
    """Of 400 shifted samples at most about 5% have a 95% bound above the population's own PSI."""
    rng = np.random.default_rng(11)
    old, new = np.full(10, 0.1), np.array([0.05] * 5 + [0.15] * 5)
    truth = float(np.sum((new - old) * np.log(new / old)))
    lows = [
        measure_psi(
            rng.multinomial(20_000, old).astype(float),
            rng.multinomial(900, new).astype(float),
            np.array([0]),
            0.05,
        )[3, 0]
        for _ in range(400)
    ]
    print(f"bounds above the true PSI of {truth:.3f}: {np.mean(np.array(lows) > truth):.3f}")
    assert np.mean(np.array(lows) > truth) <= 0.08
    assert np.mean(np.array(lows) > 0.1) >= 0.9


@pytest.mark.parametrize(("shift", "level"), [(0.0, "none"), (8.0, "none"), (13.0, "large")])
def test_a_season_that_no_training_saw_is_far_however_restless_the_days(shift, level):
    """Ten days of one value each bound nothing by deciles; what training saw of the number does."""
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(10), 200)
    held = {"x": np.repeat(rng.normal(0, 3, 10), 200) + rng.normal(0, 0.1, 2_000)}
    week = {"x": np.repeat(rng.normal(shift, 0.5, 7), 200)}
    watched = [DriftColumn("x", "number", 1.0, seen=(-10.0, 10.0))]
    verdict = judge_drift(held, week, watched, days=days, length=7)
    assert verdict.columns[0].level == level
    assert ("beyond the -10 to 10 that training saw" in verdict.columns[0].reason) == (level == "large")
    assert verdict.drifted_importance == (level == "large")


def test_a_real_shift_is_named_with_its_weight_and_direction():
    """A shift of one standard deviation is large, and its share of importance is told in words."""
    rng = np.random.default_rng(2)
    verdict = judge_drift(draw(rng, 10_000), draw(rng, 500, shift=1.0), COLUMNS)
    assert verdict.drifted_importance == pytest.approx(0.6)
    assert [c.name for c in verdict.columns if c.level == "large"] == ["x"]
    assert "x: PSI" in verdict.reasons[1]


def test_too_few_rows_give_no_verdict():
    """Under the minimum sample nothing is said about any column."""
    rng = np.random.default_rng(3)
    verdict = judge_drift(draw(rng, 10_000), draw(rng, 99, shift=5.0), COLUMNS)
    assert (verdict.enough, verdict.columns, verdict.drifted_importance) == (False, (), 0.0)
    assert "99 rows" in verdict.reasons[0]


def test_a_column_that_goes_null_drifts():
    """Nulls are a bin of their own: a feed that dies is drift."""
    rng = np.random.default_rng(4)
    current = draw(rng, 500) | {"x": np.full(500, np.nan)}
    assert judge_drift(draw(rng, 5_000), current, COLUMNS).columns[0].level == "large"


def test_categories_never_seen_before_drift():
    """Unseen categories fall into the bin of the rare ones and show."""
    rng = np.random.default_rng(5)
    current = draw(rng, 500)
    current["place"] = np.where(rng.random(500) < 0.5, "new", current["place"]).astype(object)
    verdict = judge_drift(draw(rng, 5_000), current, COLUMNS)
    assert verdict.columns[4].level == "large"
    assert "unseen categories 5" in verdict.columns[4].reason


def test_a_constant_column_that_moves_either_way_drifts():
    """A constant has no quantiles, yet leaving its value must show."""
    for value in (3.0, 7.0):
        verdict = judge_drift(
            {"x": np.full(300, 5.0)}, {"x": np.full(300, value)}, [DriftColumn("x", "number")]
        )
        assert verdict.columns[0].level == "large"


def test_columns_without_any_value_say_nothing():
    """A column that is null on both sides has not moved."""
    empty = {"x": np.full(300, np.nan)}
    verdict = judge_drift(empty, empty, [DriftColumn("x", "number")])
    assert verdict.columns[0].level == "none"


def test_many_columns_raise_the_bar_for_each():
    """The same shift is surer alone than among a thousand other columns, and its p-value says so."""
    rng = np.random.default_rng(12)
    old, new = rng.normal(0, 1, 5_000), rng.normal(0.5, 1, 300)
    lone, crowd = (
        judge_drift(
            {f"x{i}": old for i in range(many)},
            {f"x{i}": new for i in range(many)},
            [DriftColumn(f"x{i}", "number") for i in range(many)],
        ).columns[0]
        for many in (1, 1_000)
    )
    assert 0 < crowd.low < lone.low
    assert crowd.p_value == pytest.approx(min(1.0, 1_000 * lone.p_value))


def test_a_category_never_seen_is_told_from_a_rare_one():
    """A rare category and an unseen one have different bins, nulls the last."""
    bins = fit_bins(np.array(["a"] * 500 + ["b"] * 2, dtype=object), "category")
    assert bins.encode(np.array(["a", "b", "new", None], dtype=object)).tolist() == [0, 1, 2, 3]


def draw_week(rng, rows, days, hours):
    """A column that follows the hour and the weekday, as the traffic of an airport does."""
    weekday, hour = rng.choice(days, rows).astype(float), rng.choice(hours, rows).astype(float)
    return {"weekday": weekday, "hour": hour, "load": hour + 5 * (weekday > 5) + rng.normal(0, 1, rows)}


@pytest.mark.parametrize(("days", "hours"), [([6], range(5, 23)), (range(1, 8), range(18, 23))])
def test_a_saturday_or_an_evening_is_no_drift(days, hours):
    """The reference is turned to the window's own hours: without the calendar the same window drifts."""
    rng = np.random.default_rng(13)
    reference = draw_week(rng, 20_000, range(1, 8), range(5, 23))
    window, columns = draw_week(rng, 900, list(days), list(hours)), [DriftColumn("load", "number")]
    turned = judge_drift(reference, window, columns, calendar=frozenset({"weekday", "hour"}))
    assert turned.columns[0].level == "none"
    assert judge_drift(reference, window, columns).columns[0].level != "none"


def test_a_shift_within_its_own_hours_drifts_all_the_same():
    """Turning the reference hides the calendar, not what happens within it."""
    rng = np.random.default_rng(14)
    reference = draw_week(rng, 20_000, range(1, 8), range(5, 23))
    window = draw_week(rng, 900, [6], range(5, 23))
    window["load"] = window["load"] + 6
    verdict = judge_drift(
        reference, window, [DriftColumn("load", "number")], calendar=frozenset({"weekday", "hour"})
    )
    assert verdict.columns[0].level == "large"


def test_hours_that_the_reference_lacks_are_told():
    """With no like of most of a window the reference stands as it is, and the verdict says so."""
    rng = np.random.default_rng(15)
    reference = draw_week(rng, 20_000, range(1, 6), range(5, 23))
    window = draw_week(rng, 900, [7], range(5, 23))
    verdict = judge_drift(reference, window, [DriftColumn("load", "number")], calendar=frozenset({"weekday"}))
    assert "no like of 100%" in verdict.reasons[-1]


def test_without_importance_every_column_counts_alike():
    """A contract without importances still weighs columns, evenly."""
    rng = np.random.default_rng(6)
    columns = [DriftColumn(c.name, c.kind, None) for c in COLUMNS]
    verdict = judge_drift(draw(rng, 5_000), draw(rng, 500, shift=2.0), columns)
    assert verdict.drifted_importance == pytest.approx(0.2)


def test_negative_importance_counts_as_none():
    """Permutation importance may fall below zero by noise; that is no weight."""
    rng = np.random.default_rng(8)
    columns = [DriftColumn("x", "number", -0.5), DriftColumn("few", "number", 0.5)]
    verdict = judge_drift(draw(rng, 5_000), draw(rng, 500, shift=2.0), columns)
    assert [c.weight for c in verdict.columns] == [0.0, 1.0]
    assert verdict.drifted_importance == 0.0


def test_limits_apply_to_the_effect_not_to_the_raw_psi():
    """A PSI that its sample size explains is no drift, whatever its height."""
    verdict = judge_drift(
        {"x": np.arange(1_000.0)},
        {"x": np.arange(0, 1_000.0, 5)},
        [DriftColumn("x", "number")],
        DriftPolicy(),
    )
    assert verdict.columns[0].effect == pytest.approx(
        max(0, verdict.columns[0].psi - verdict.columns[0].by_chance)
    )
