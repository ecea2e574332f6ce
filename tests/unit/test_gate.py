"""The gate opens only on evidence."""

import dataclasses

import numpy as np
import pytest

from flows.policy.gate import Evidence, GatePolicy, judge

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


def test_a_candidate_without_gain_rarely_passes() -> None:
    """Noise around the champion's own scores passes in at most 1 of 20 draws."""
    passed = 0
    for seed in range(60):
        evidence = make_evidence(seed=seed)
        noise = np.random.default_rng(seed + 1_000).normal(0, 0.02, ROWS)
        candidate = np.clip(evidence.rivals["champion"] + noise, 0.01, 0.99)
        passed += judge(dataclasses.replace(evidence, candidate=candidate), GatePolicy(resamples=400)).passed
    assert passed <= 3


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
