"""The gate opens only on evidence."""

import dataclasses

import numpy as np
import pytest

from flows.policy.gate import Evidence, GatePolicy, judge, resample_days
from flows.policy.gate_inputs import InputColumn, Remade, check_alone, check_contract, check_remade
from flows.policy.recalibration import fit_slope

ROWS, DAYS = 4_000, 14


def make_evidence(gain: float = 0.6, seed: int = 0) -> Evidence:
    """Return evidence on a candidate that sees `gain` of the truth; the champion sees a little of it."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=ROWS)
    outcomes = (rng.random(ROWS) < 1 / (1 + np.exp(-truth + 1))).astype(float)

    def see(share: float) -> np.ndarray:
        return 1 / (1 + np.exp(-share * truth + 1))

    return Evidence(
        outcomes=outcomes,
        candidate=see(gain),
        rivals={"champion": see(0.2)},
        days=np.arange(ROWS) % DAYS,
        slices={"carrier": np.where(np.arange(ROWS) % 2, "AA", "UA")},
        latency_ms=5.0,
        inputs=(InputColumn("amount", fitted_null=0.1, held_null=0.1, champion_null=0.1, alone=0.6),),
        remade=(Remade("amount", 200, 0),),
        best_auc=0.65,
    )


def test_a_better_candidate_passes() -> None:
    """Every check holds for a candidate that is better overall and in each slice."""
    verdict = judge(make_evidence())
    assert verdict.passed
    assert verdict.reasons == ()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"latency_ms": None, "complaint": "no model.skops"}, "loads and answers"),
        ({"latency_ms": 51.0}, "loads and answers"),
        ({"rivals": {}}, "rivals"),
        ({"days": np.zeros(ROWS, dtype=np.int64)}, "newer labelled data"),
        ({"candidate": np.full(ROWS, 0.9)}, "better than the champion"),
        ({"inputs": ()}, "input contract"),
        ({"remade": ()}, "leak: values as known at the decision"),
    ],
)
def test_one_failing_check_closes_the_gate(change: dict[str, object], check: str) -> None:
    """No check can be made up for by another, and the reason is named."""
    verdict = judge(dataclasses.replace(make_evidence(), **change))
    assert not verdict.passed
    assert any(reason.startswith(check) for reason in verdict.reasons)


def test_an_equal_candidate_does_not_pass() -> None:
    """As good as the champion is not better."""
    evidence = make_evidence()
    verdict = judge(dataclasses.replace(evidence, candidate=evidence.rivals["champion"]))
    assert not verdict.passed


def test_a_gain_overall_does_not_excuse_a_slice_that_is_surely_worse() -> None:
    """A slice whose loss surely grew closes the gate by name."""
    evidence = make_evidence(gain=0.9)
    broken = np.where(evidence.slices["carrier"] == "AA", 1 - evidence.candidate, evidence.candidate)
    verdict = judge(dataclasses.replace(evidence, candidate=broken))
    assert any(reason.startswith("not worse for carrier AA") for reason in verdict.reasons)


@pytest.mark.parametrize("days", [7, 14])
def test_equal_models_are_rarely_called_better(days: int) -> None:
    """Days that share their weather, models that are equal over all days: about 2.5% are surely better.

    Rows resampled one by one would say so of a third, plain percentiles of days of 5%.
    """
    rng, draws, rows = np.random.default_rng(0), 1_500, 20
    each = np.repeat(np.arange(days), rows)
    better = 0
    for seed in range(draws):
        difference = rng.normal(size=days)[each] + rng.normal(size=len(each))
        better += resample_days(difference, each, 0.95, 400, seed)[2] < 0
    assert 0.015 <= better / draws <= 0.04


@pytest.mark.parametrize(("by", "most"), [("days", 0.04), ("rows", 1.0)])
def test_a_candidate_that_is_no_better_rarely_passes(by: str, most: float) -> None:
    """Two models that are off by as much, on days of their own; told the rows apart, many more would pass."""
    passed, draws = 0, 200
    for seed in range(draws):
        evidence, rng = make_evidence(seed=seed), np.random.default_rng(seed + 1_000)
        logit = np.log(evidence.candidate / (1 - evidence.candidate))
        one, other = (1 / (1 + np.exp(-(logit + rng.normal(0, 0.4, DAYS)[evidence.days]))) for _ in range(2))
        days = evidence.days if by == "days" else np.arange(ROWS)
        told = dataclasses.replace(evidence, candidate=one, rivals={"champion": other}, days=days, slices={})
        passed += judge(told, GatePolicy(resamples=300)).passed
    assert passed <= most * draws
    assert by == "days" or passed > 0.1 * draws


def test_one_day_is_no_evidence() -> None:
    """Of its spread nothing is known, whatever its rows say; neither can a slice of one day be worse."""
    mean, low, high = resample_days(np.ones(500), np.zeros(500, dtype=np.int64), 0.95, 100, 0)
    assert (mean, low, high) == (1.0, -np.inf, np.inf)
    evidence = make_evidence()
    stormy = evidence.days == 3
    worse = np.where(stormy, 1 - evidence.candidate, evidence.candidate)
    sliced = {"place": np.where(stormy & (np.arange(ROWS) % 2 == 1), "one day only", "the rest")}
    policy = GatePolicy(min_slice_rows=100)
    verdict = judge(dataclasses.replace(evidence, candidate=worse, slices=sliced), policy)
    assert [c.name for c in verdict.checks if "place" in c.name] == ["not worse for place the rest"]


@pytest.mark.parametrize(("shift", "passes"), [(0.06, True), (0.30, False)])
def test_calibration_is_bounded_by_the_champion_where_the_rate_moved(shift: float, passes: bool) -> None:
    """A candidate beyond the fixed bound passes only while it is nearer to the rate than the champion."""
    evidence = make_evidence(gain=0.9)
    moved = dataclasses.replace(
        evidence,
        candidate=np.clip(evidence.candidate + shift + 0.01, 0.01, 0.99),
        rivals={"champion": np.clip(evidence.rivals["champion"] + 0.2, 0.01, 0.99)},
    )
    checks = {check.name: check.passed for check in judge(moved).checks}
    assert checks["calibration in the large"] is passes


@pytest.mark.parametrize(
    ("name", "gain", "check"),
    [
        ("base rate", 0.6, "better than the base rate"),
        ("linear model", 1.0, "not worse than the linear model"),
    ],
)
def test_a_champion_that_decayed_is_no_excuse(name: str, gain: float, check: str) -> None:
    """Whoever beats it must beat the base rate too, and not be surely worse than a linear model."""
    evidence = make_evidence()
    rivals = {**evidence.rivals, name: make_evidence(gain).candidate}
    verdict = judge(dataclasses.replace(evidence, rivals=rivals))
    assert [reason.split(":")[0] for reason in verdict.reasons] == [check]


def test_a_first_model_must_be_better_than_a_linear_one() -> None:
    """As good as a linear model is no reason to serve something else."""
    evidence = make_evidence()
    verdict = judge(dataclasses.replace(evidence, rivals={"linear model": evidence.candidate}))
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["better than the linear model"]


def test_scores_that_rank_upside_down_are_told_so() -> None:
    """Not only worse: turned round, which another threshold would not mend."""
    evidence = make_evidence(gain=0.9)
    verdict = judge(dataclasses.replace(evidence, candidate=1 - evidence.candidate))
    assert any("ranks upside down" in reason for reason in verdict.reasons)


def test_scores_far_too_sure_of_themselves_fail_by_their_slope() -> None:
    """The slope of the recalibration of scores pulled apart threefold is a third."""
    evidence = make_evidence(gain=0.9)
    logit = np.log(evidence.candidate / (1 - evidence.candidate))
    sure = 1 / (1 + np.exp(-(3 * (logit - logit.mean()) + logit.mean())))
    rivals = {"champion": evidence.candidate}
    verdict = judge(dataclasses.replace(evidence, candidate=sure, rivals=rivals))
    assert any(reason.startswith("calibration slope") for reason in verdict.reasons)


def test_the_slope_of_true_probabilities_is_one() -> None:
    """The interval covers 1 for the probabilities that the outcomes were drawn with."""
    covered = 0
    for seed in range(100):
        evidence = make_evidence(gain=1.0, seed=seed)
        slope = fit_slope(evidence.candidate, evidence.outcomes, evidence.days)
        assert slope is not None
        covered += slope.low <= 1 <= slope.high
    assert covered >= 88


def test_scores_that_are_all_one_do_not_rank() -> None:
    """Nothing can be fitted, and the gate stays closed."""
    evidence = dataclasses.replace(make_evidence(), candidate=np.full(ROWS, 0.3))
    assert fit_slope(evidence.candidate, evidence.outcomes, evidence.days) is None
    assert any(reason.startswith("ranks the right way up") for reason in judge(evidence).reasons)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (InputColumn("x", 1.0, 1.0, 0.1), "x is null in 100% of what it learned from"),
        (InputColumn("x", 0.5, 0.5, 0.1), "10% for the champion"),
        (InputColumn("x", 0.1, 0.6), "null in 60% of newer rows"),
        (InputColumn("x", 0.0, 0.0, unseen=0.3), "never seen in 30%"),
        (InputColumn("x", 0.0, 0.0, outside=0.9), "outside its range in 90%"),
    ],
)
def test_an_input_that_broke_is_named(column: InputColumn, words: str) -> None:
    """What broke, in which column, and by how much."""
    check = check_contract([column, InputColumn("y", 0.8, 0.8, 0.8)])
    assert not check.passed
    assert words in check.got
    assert check.got.startswith("1 of 2 inputs")


def test_a_column_that_always_was_empty_breaks_nothing() -> None:
    """What the champion lives with is no reason against its successor."""
    assert check_contract([InputColumn("gust", 1.0, 1.0, 1.0), InputColumn("y", 0.0, 0.1)]).passed


def test_values_that_cannot_be_made_again_are_a_leak() -> None:
    """One in a hundred may differ: a row restated meanwhile; more is knowledge of the future."""
    assert check_remade([Remade("x", 500, 5)]).passed
    check = check_remade([Remade("x", 500, 6, "a: 1, known then 2"), Remade("y", 500, 0)])
    assert not check.passed
    assert "x differs in 6 of 500 (a: 1, known then 2)" in check.got
    assert not check_remade([Remade("x", 3, 0)]).passed
    check = check_remade([Remade("x", 500, 0), Remade("y", 0, 0)])
    assert not check.passed
    assert "y in fewer than" in check.got


def test_an_input_that_alone_outdoes_every_champion_is_too_good_to_be_true() -> None:
    """The bound is the best that a champion had; for a first model it is 0.9."""
    column = InputColumn("x", 0.0, 0.0, alone=0.8)
    assert not check_alone([column], 0.72).passed
    assert check_alone([column], 0.78).passed
    assert check_alone([column], None).passed
    assert not check_alone([InputColumn("x", 0.0, 0.0, alone=0.95)], None).passed
