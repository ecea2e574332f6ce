"""Estimated quality: the AUC that scores make expect, and how it is held against the labels."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from flows.policy.estimate import count_missed, estimate_auc, expect_auc, fit_calibration
from flows.policy.quality import Interval


def draw(rng, rows, spread=1.0, bias=0.0):
    """Scores whose true chances are the scores' own, or off by `bias` on the logit."""
    logits = rng.normal(-1.2, spread, rows)
    chances = 1 / (1 + np.exp(-(logits + bias)))
    return 1 / (1 + np.exp(-logits)), (rng.random(rows) < chances).astype(float)


def test_with_outcomes_for_chances_the_expectation_is_the_auc_itself():
    """Ties and all, it is scikit-learn's."""
    scores, outcomes = draw(np.random.default_rng(1), 2_000)
    scores = np.round(scores, 1)
    assert expect_auc(scores, outcomes) == pytest.approx(roc_auc_score(outcomes, scores))


def test_the_expectation_is_the_mean_over_draws_of_the_labels():
    """Expected wins over expected pairs agrees with 400 draws."""
    rng = np.random.default_rng(2)
    scores, _ = draw(rng, 500)
    drawn = [expect_auc(scores, (rng.random(500) < scores).astype(float)) for _ in range(400)]
    assert expect_auc(scores, scores) == pytest.approx(np.mean(drawn), abs=0.005)


def test_the_interval_holds_the_realised_auc_as_often_as_it_says():
    """Of 200 windows whose rows are alike, about 95% of the realised values lie inside."""
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(200):
        calibration = fit_calibration(*draw(rng, 2_000, bias=0.5))
        scores, outcomes = draw(rng, 600, bias=0.5)
        auc = estimate_auc(calibration, scores).auc
        inside.append(auc.low <= expect_auc(scores, outcomes) <= auc.high)
    print(f"realised inside the interval: {np.mean(inside):.3f}")
    assert 0.91 <= np.mean(inside) <= 0.99


def test_a_window_that_is_harder_to_rank_is_a_breach():
    """Scores that lie close together promise little, and the estimate says so before any label."""
    rng = np.random.default_rng(4)
    calibration = fit_calibration(*draw(rng, 5_000))
    assert estimate_auc(calibration, draw(rng, 2_000)[0]).state == "ok"
    found = estimate_auc(calibration, draw(rng, 2_000, spread=0.3)[0])
    assert (found.state, "estimated AUC" in found.reason) == ("breach", True)


def test_restless_days_widen_the_interval():
    """Where the reference's own days lie far from their estimates, so may the window."""
    rng = np.random.default_rng(5)
    days = np.repeat(np.arange(12), 500)
    parts = [draw(rng, 500) for _ in range(12)]
    scores = np.concatenate([s for s, _ in parts])
    # On every other day the scores say nothing at all.
    outcomes = np.concatenate([rng.permutation(y) if i % 2 else y for i, (_, y) in enumerate(parts)])
    calm, restless = fit_calibration(scores, outcomes), fit_calibration(scores, outcomes, days)
    window = draw(rng, 500)[0]
    wide = [estimate_auc(c, window).auc for c in (calm, restless)]
    assert wide[1].high - wide[1].low > 1.5 * (wide[0].high - wide[0].low)


def test_too_few_scores_give_no_estimate():
    """Under the minimum nothing is said."""
    calibration = fit_calibration(*draw(np.random.default_rng(6), 1_000))
    assert estimate_auc(calibration, np.full(199, 0.3)).state == "unknown"


@pytest.mark.parametrize(("missed", "too_often"), [(1, False), (4, True)])
def test_more_misses_than_its_share_are_said(missed, too_often):
    """One miss in twenty is what a 95% interval allows; four are not."""
    held = Interval(0.7, 0.68, 0.72)
    count, found, told = count_missed([(held, 0.5)] * missed + [(held, 0.7)] * (20 - missed))
    assert (count, found, "do not rely" in told) == (missed, too_often, too_often)


@pytest.mark.parametrize("scores", [np.zeros(1_000), np.ones(1_000), np.full(1_000, np.nan)])
def test_scores_that_say_nothing_give_no_estimate(scores):
    """All 0, all 1 or no number: no outcome of one kind is expected, so there is nothing to rank."""
    calibration = fit_calibration(*draw(np.random.default_rng(7), 2_000))
    found = estimate_auc(calibration, scores)
    assert (found.state, found.auc) == ("unknown", None)


def test_a_few_days_are_trusted_less_than_many():
    """The same unrest of six days widens the interval more than that of sixty."""
    rng = np.random.default_rng(8)
    wide = []
    for count in (6, 60):
        days, parts = np.repeat(np.arange(count), 500), [draw(rng, 500) for _ in range(count)]
        outcomes = np.concatenate([rng.permutation(y) if i % 2 else y for i, (_, y) in enumerate(parts)])
        wide.append(fit_calibration(np.concatenate([s for s, _ in parts]), outcomes, days).unrest)
    assert wide[0] > 1.5 * wide[1] > 0
