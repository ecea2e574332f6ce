"""Signals: each says ok, alarm or unknown, and why."""

import numpy as np
import pytest

from flows.policy.drift import DriftColumn, judge_drift
from flows.policy.estimate import Estimate
from flows.policy.signals import (
    judge_coverage,
    judge_estimate,
    judge_flagged,
    judge_inputs,
    judge_predictions,
    judge_skew,
    list_alarms,
)


@pytest.mark.parametrize(
    ("signal", "state"),
    [
        (judge_coverage(1_000, 1_000), "ok"),
        (judge_coverage(9, 10), "ok"),
        (judge_coverage(900, 1_000), "alarm"),
        (judge_coverage(0, 0), "unknown"),
        (judge_flagged(0, 500), "ok"),
        (judge_flagged(210, 1_000), "ok"),
        (judge_flagged(300, 1_000), "alarm"),
    ],
)
def test_a_share_alarms_only_where_it_is_surely_over_its_limit(signal, state):
    """Few requests raise nothing by chance, none are no good news, and the reason quotes the counts."""
    assert signal.state == state
    assert signal.reason


def drift(shift, weight):
    """A verdict of a window of one column, moved by so many standard deviations."""
    rng = np.random.default_rng(1)
    columns = [DriftColumn("x", "number", weight), DriftColumn("y", "number", 1.0)]
    old, new = ({n: rng.normal(0, 1, rows) for n in "xy"} for rows in (5_000, 900))
    return judge_drift(old, new | {"x": new["x"] + shift}, columns)


def test_a_column_that_no_model_uses_alarms_and_does_not_retrain():
    """A person is told; what the model relies on has not moved."""
    verdict = drift(1.0, 0.0)
    signal = judge_inputs(verdict)
    assert (signal.state, verdict.drifted_importance) == ("alarm", 0.0)
    assert "x (large, weight 0%)" in signal.reason


def test_steady_inputs_and_scores_are_ok():
    """Nothing moved, nothing alarms; without scores nothing is known."""
    verdict = drift(0.0, 1.0)
    signals = (judge_inputs(verdict), judge_predictions(verdict.columns[0]))
    assert (list_alarms(signals), judge_predictions(None).state) == ((), "unknown")


def test_an_estimate_that_surely_fell_alarms():
    """The estimate's breach is an alarm, not a retrain."""
    assert judge_estimate(Estimate("breach", None, "fell")).state == "alarm"
    assert judge_estimate(Estimate("unknown", None, "few")).state == "unknown"


def test_skew_that_was_not_measured_is_not_ok():
    """No comparison is no verdict."""
    assert judge_skew(0, {}).state == "unknown"


def test_one_wrong_value_is_an_alarm_that_names_its_feature():
    """A value that is computed in two ways is wrong on one side, however seldom."""
    assert judge_skew(1_000, {"temp": 0}).state == "ok"
    signal = judge_skew(1_000, {"temp": 0, "wind": 1})
    assert (signal.state, "wind 1" in signal.reason, "temp" in signal.reason) == ("alarm", True, False)
