"""Drift: an effect size beyond chance, column by column, weighted by what the model relies on."""

import numpy as np
import pytest

from flows.policy.drift import (
    DriftColumn,
    DriftPolicy,
    adjust_p_values,
    count_bins,
    judge_drift,
    measure_psi,
)

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


@pytest.mark.parametrize("rows", [200, 500, 2_000, 10_000])
def test_windows_of_the_same_population_do_not_drift(rows):
    """A/A: of 300 windows at most 1% may call any column drifted, however small the window."""
    rng = np.random.default_rng(7)
    reference = draw(rng, 10_000)
    verdicts = [judge_drift(reference, draw(rng, rows), COLUMNS) for _ in range(300)]
    alarms = sum(any(c.level != "none" for c in v.columns) for v in verdicts)
    print(f"A/A, {rows} rows: {alarms} of 300 windows name a drifted column")
    assert alarms <= 3
    assert all(v.drifted_importance == 0 for v in verdicts)


def test_by_chance_alone_the_psi_is_what_the_formula_says():
    """The expected PSI without drift is (bins - 1)(1/n + 1/m)."""
    rng = np.random.default_rng(1)
    sizes = [
        measure_psi(rng.multinomial(5_000, [0.1] * 10), rng.multinomial(300, [0.1] * 10)) for _ in range(400)
    ]
    psi, expected, _ = np.mean(sizes, axis=0)
    assert psi == pytest.approx(expected, rel=0.05)


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
    verdict = judge_drift(draw(rng, 10_000), draw(rng, 199, shift=5.0), COLUMNS)
    assert (verdict.enough, verdict.columns, verdict.drifted_importance) == (False, (), 0.0)
    assert "199" in verdict.reasons[0]


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
        old, new = count_bins(np.full(300, 5.0), np.full(300, value), "number")
        assert measure_psi(old, new)[0] > 0.25


def test_columns_without_any_value_say_nothing():
    """A column that is null on both sides has not moved."""
    empty = {"x": np.full(300, np.nan)}
    verdict = judge_drift(empty, empty, [DriftColumn("x", "number")])
    assert verdict.columns[0].level == "none"


def test_many_columns_raise_the_bar_for_each():
    """Benjamini-Hochberg: the worked example of the method, and order kept."""
    assert adjust_p_values([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.0533333, 0.0533333, 0.5])


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
