"""Trigger: k of the last n windows and the latest one, or age, with the cause named."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.policy.trigger import TriggerPolicy, WindowSigns, decide, name_breaches

START = datetime(2013, 3, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def weeks(*breaches):
    """Windows one after the other, each with its breach or breaches."""
    return [
        WindowSigns(START + (i + 1) * WEEK, tuple(b.split()), (f"told {b}",)) for i, b in enumerate(breaches)
    ]


@pytest.mark.parametrize(
    ("history", "fires"),
    [
        (("quality",), False),
        (("quality", "quality"), True),
        (("quality", "", "quality"), True),
        (("quality", "quality", ""), False),
        (("quality", "", "", "quality"), False),
        (("", "", ""), False),
        (("drift", "drift"), True),
        (("quality", "drift"), False),
        (("underrating", "overrating"), False),
        (("underrating", "", "underrating"), True),
    ],
)
def test_two_of_the_last_three_and_the_latest_fire(history, fires):
    """One odd window, a healed one, or two of different kinds do not make a retrain."""
    assert decide(weeks(*history)).retrain is fires


def test_no_windows_no_retrain():
    """Without history there is nothing to decide on."""
    assert not decide([]).retrain


def test_the_cause_and_the_windows_own_reasons_are_named():
    """A retrain says which signal fired and what the latest window found."""
    trigger = decide(weeks("quality drift", "quality drift"))
    assert trigger.causes == ("quality", "drift")
    assert "told quality drift" in trigger.reasons


def test_the_order_of_the_windows_does_not_matter():
    """History is ordered by time, not by how it was read."""
    history = weeks("quality", "", "quality")
    assert decide(history[::-1]) == decide(history)


@pytest.mark.parametrize(("days", "fires"), [(6, False), (7, True)])
def test_a_rejected_retrain_is_not_repeated_at_once(days, fires):
    """After a request that brought no new champion it waits until the rows are others."""
    trigger = decide(weeks("quality", "quality"), rejected=START + 2 * WEEK - timedelta(days=days))
    assert trigger.retrain is fires
    assert fires or "rejected" in trigger.reasons[-1]


@pytest.mark.parametrize(("days", "fires"), [(24, False), (25, True)])
def test_an_old_model_is_renewed_though_nothing_broke(days, fires):
    """The age of the newest row learned from asks by itself, and is named as the cause."""
    trigger = decide(weeks("", ""), trained=START + 2 * WEEK - timedelta(days=days))
    assert (trigger.retrain, trigger.causes) == (fires, ("age",) if fires else ())


def test_without_a_limit_age_asks_for_nothing():
    """A policy may leave age out."""
    assert not decide(weeks("", ""), TriggerPolicy(oldest=None), trained=START - 99 * WEEK).retrain


def test_signals_that_are_not_heeded_do_not_fire():
    """A policy counts only the signals that it names."""
    assert not decide(weeks("drift", "drift"), TriggerPolicy(signals=("quality",))).retrain


def test_k_and_n_are_the_policys():
    """Another k and n decide differently on the same history."""
    assert not decide(weeks("quality", "quality"), TriggerPolicy(needed=3, of=4)).retrain
    assert decide(weeks("", "", "quality"), TriggerPolicy(needed=1, of=1)).retrain


@pytest.mark.parametrize(("share", "named"), [(0.49, ("quality",)), (0.5, ("quality", "drift"))])
def test_drift_breaches_from_the_stated_share_on(share, named):
    """Half of the model's importance must have moved far."""
    assert name_breaches(("quality",), share) == named
