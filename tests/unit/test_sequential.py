"""The sequential test: nothing is decided out of nothing, and what is decided holds at every look."""

import numpy as np
import pytest

from flows.policy.sequential import SequentialPolicy, bound, compare, trace_days


def days(count, mean=0.0, spread=1.0, seed=0):
    return np.random.default_rng(seed).normal(mean, spread, count)


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_few_days_decide_nothing(count):
    """However far apart the models are: less than a week says nothing of the next one."""
    assert compare([-5.0 - i / 100 for i in range(count)], [100] * count).action == "go on"


def test_a_day_that_is_no_number_decides_nothing():
    """Nor may a watch call it good: no day counts."""
    found = compare([*days(20, mean=-5), np.nan], [100] * 21)
    assert (found.action, found.effective) == ("go on", 0.0)


def test_a_giant_day_is_not_a_week():
    """Eight days, one of which has nearly all rows, are worth one."""
    verdict = compare(days(8, mean=-50), [1e6, *[10] * 7])
    assert (verdict.action, verdict.days) == ("go on", 8)
    assert verdict.effective < 1.1


def test_what_is_surely_better_is_promoted_and_surely_worse_stopped():
    """The sign decides: lower log loss is better."""
    better = days(20, mean=-2)
    assert compare(better, [100] * 20).action == "promote"
    worse = compare(-better, [100] * 20)
    assert (worse.action, worse.reasons[0]) == ("stop", "surely worse")


def test_what_is_no_better_is_given_up_in_time():
    """A challenger does not stand beside the champion for good."""
    policy = SequentialPolicy(max_days=30)
    even = np.tile([1.0, -1.0], 15)
    assert compare(even[:29], [1] * 29, policy).action == "go on"
    assert "not surely better in 30 days" in compare(even, [1] * 30, policy).reasons


def test_nothing_but_the_rows_matters_to_scale_and_weight():
    """Another unit of loss or of size changes no decision."""
    d, w = days(15, -1), np.arange(1, 16.0)
    one, other = compare(d, w), compare(d * 1e-4, w * 1e3)
    assert (one.action, round(one.high, 9)) == (other.action, round(other.high * 1e4, 9))


def test_days_of_one_size_give_the_t_interval():
    """The jackknife is the standard error of a mean, and the first look's bound is wider than t's."""
    d = days(9, 0.3)
    mean, error, effective = (x[0, -1] for x in trace_days(d[None], np.ones((1, 9)), last=True))
    assert mean == pytest.approx(d.mean())
    assert error == pytest.approx(d.std(ddof=1) / 3)
    assert effective == pytest.approx(9)
    assert bound(np.array(9.0)) > 2.31  # Student's, for one look


def test_looking_every_day_is_wrong_no_oftener_than_promised():
    """Of 2,000 pairs of equal models looked at for 60 days, at most 5% are ever told apart."""
    d = np.random.default_rng(5).normal(0, 1, (2_000, 60))
    mean, error, effective = trace_days(d, np.ones_like(d))
    assert (np.abs(mean) > bound(effective) * error).any(axis=1).mean() <= 0.05


def test_a_day_without_rows_is_refused_not_guessed():
    """A weight of nothing decides nothing."""
    assert compare([1.0], [0.0]).action == "go on"
