"""Realised quality: intervals, and a breach only where the loss is sure."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from flows.policy.quality import judge_quality, measure_auc, measure_quality, measure_skill


def draw(rng, rows, signal=1.0, bias=0.0):
    """Calibrated scores with their outcomes; `signal` thins the link, `bias` shifts the outcomes."""
    logit = rng.normal(-1.2, 1, rows)
    truth = 1 / (1 + np.exp(-(-1.2 + signal * (logit + 1.2) + bias)))
    return 1 / (1 + np.exp(-logit)), (rng.random(rows) < truth).astype(float)


def judge(current, reference, arrived=1.0, mature=True):
    """Judge with every label there."""
    return judge_quality(current, reference, arrived=arrived, mature=mature)


def test_measures_agree_with_scikit_learn():
    """AUC, log loss and Brier are those of scikit-learn, ties and all."""
    scores, outcomes = draw(np.random.default_rng(1), 3_000)
    scores = np.round(scores, 2)
    quality = measure_quality(scores, outcomes)
    assert quality.auc.value == pytest.approx(roc_auc_score(outcomes, scores))
    assert quality.log_loss == pytest.approx(log_loss(outcomes, scores))
    assert quality.brier == pytest.approx(brier_score_loss(outcomes, scores))
    rate = outcomes.mean()
    assert quality.skill.value == pytest.approx(1 - quality.brier / (rate * (1 - rate)))


def test_the_auc_interval_covers_the_truth_as_often_as_it_says():
    """95% intervals hold the true AUC in about 95% of 400 samples."""
    rng = np.random.default_rng(2)
    truth = measure_auc(*draw(rng, 1_000_000)).value
    found = [measure_auc(*draw(rng, 400)) for _ in range(400)]
    held = np.mean([i.low <= truth <= i.high for i in found])
    print(f"coverage of the AUC interval at 400 rows: {held:.3f}")
    assert 0.92 <= held <= 0.98


def test_the_same_quality_does_not_breach():
    """A/A: 300 windows of a healthy model, from 200 to 10,000 rows, at most 1% in breach."""
    rng = np.random.default_rng(3)
    reference = draw(rng, 10_000)
    for rows, windows in ((250, 150), (2_000, 100), (10_000, 50)):
        states = [judge(draw(rng, rows), reference).state for _ in range(windows)]
        print(f"A/A quality, {rows} rows: {states.count('breach')} of {windows} in breach")
        assert states.count("breach") <= windows // 100
        assert "ok" in states


def test_lost_ranking_breaches_with_numbers():
    """A model whose scores no longer rank is in breach, and the reason quotes interval and limit."""
    rng = np.random.default_rng(4)
    verdict = judge(draw(rng, 2_000, signal=0.2), draw(rng, 10_000))
    assert (verdict.state, "quality" in verdict.breaches) == ("breach", True)
    assert any(reason.startswith("AUC") for reason in verdict.reasons)


@pytest.mark.parametrize(("bias", "breach"), [(1.0, "underrating"), (-1.0, "overrating")])
def test_scores_that_are_no_probability_any_more_breach_by_direction(bias, breach):
    """Ranking may hold while the level is lost; the direction is named."""
    rng = np.random.default_rng(5)
    assert breach in judge(draw(rng, 2_000, bias=bias), draw(rng, 10_000)).breaches


def test_a_small_loss_is_tolerated():
    """A loss inside the tolerance is reported, not a breach."""
    rng = np.random.default_rng(6)
    verdict = judge(draw(rng, 10_000, signal=0.95), draw(rng, 10_000))
    assert verdict.state == "ok"
    assert "AUC" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("rows", "arrived", "mature", "word"),
    [(2_000, 1.0, False, "wait"), (2_000, 0.5, True, "50%"), (150, 1.0, True, "150 labels")],
)
def test_no_verdict_before_there_is_enough_to_judge(rows, arrived, mature, word):
    """Immature, missing or few labels give "unknown" with the reason, never "ok"."""
    rng = np.random.default_rng(7)
    verdict = judge(draw(rng, rows, signal=0.0), draw(rng, 10_000), arrived, mature)
    assert (verdict.state, verdict.quality, verdict.breaches) == ("unknown", None, ())
    assert word in verdict.reasons[0]


def test_one_class_alone_gives_no_verdict():
    """Without both outcomes there is no AUC to speak of."""
    scores, _ = draw(np.random.default_rng(8), 500)
    assert judge((scores, np.zeros(500)), draw(np.random.default_rng(9), 5_000)).state == "unknown"


def test_the_skill_interval_is_that_of_a_bootstrap():
    """The delta method's ends lie within a tenth of the interval's width of 4,000 bootstrap draws."""
    rng = np.random.default_rng(10)
    scores, outcomes = draw(rng, 500)
    drawn = [measure_skill(scores[i], outcomes[i]).value for i in rng.integers(0, 500, (4_000, 500))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = measure_skill(scores, outcomes)
    print(f"skill: delta {found}, bootstrap {low:.3f} to {high:.3f}")
    assert abs(found.low - low) < (high - low) / 10
    assert abs(found.high - high) < (high - low) / 10


def test_scores_that_are_no_number_give_no_verdict():
    """A score of NaN on either side is unknown, never ok."""
    rng = np.random.default_rng(12)
    good = draw(rng, 1_000)
    void = (np.full(1_000, np.nan), good[1])
    for current, reference in ((void, good), (good, void)):
        verdict = judge(current, reference)
        assert (verdict.state, "no number" in verdict.reasons[0]) == ("unknown", True)
