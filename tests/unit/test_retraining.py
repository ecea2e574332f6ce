"""Retrain policies: each asks by its own calendar or signals, and by nothing else."""

from datetime import UTC, date, datetime, timedelta

import pytest

from flows.policy.retraining import DEFAULT, POLICIES, Situation, ask
from flows.policy.trigger import TriggerPolicy, WindowSigns

START = datetime(2013, 3, 5, 5, tzinfo=UTC)
WEEK = timedelta(days=7)


def situation(*breaches, today=date(2013, 3, 21), asked_on=date(2013, 3, 1), age=20, rejected=None):
    """A decision after weeks with these breaches, the model's newest row `age` days before the last week."""
    history = [WindowSigns(START + i * WEEK, tuple(b.split())) for i, b in enumerate(breaches)]
    last = history[-1].until if history else START
    return Situation(today, asked_on, history, last - timedelta(days=age), rejected)


@pytest.mark.parametrize(
    ("name", "breaches", "asks"),
    [
        ("never", ("quality drift",) * 3, False),
        ("weekly", ("",), True),
        ("drift", ("drift", "drift"), True),
        ("drift", ("quality", "quality"), False),
        ("quality", ("quality", "quality"), True),
        ("quality", ("underrating", "underrating"), True),
        ("quality", ("drift", "drift"), False),
        ("combined", ("drift", "drift"), True),
        ("combined", ("quality", "quality"), True),
        ("combined", ("", ""), False),
    ],
)
def test_a_policy_heeds_what_it_says_it_heeds(name, breaches, asks):
    """Signals that a policy does not watch bring no retrain."""
    assert ask(POLICIES[name], situation(*breaches)).retrain is asks


@pytest.mark.parametrize(
    ("asked_on", "asks"),
    [(date(2013, 2, 28), True), (date(2013, 3, 1), False), (date(2012, 3, 21), True)],
)
def test_a_months_first_decision_asks_and_no_other(asked_on, asks):
    """Monthly is by the calendar's month: once in it."""
    assert ask(POLICIES["monthly"], situation("", asked_on=asked_on)).retrain is asks


@pytest.mark.parametrize(("age", "asks"), [(24, False), (25, True)])
def test_the_default_asks_for_a_model_that_has_grown_old(age, asks):
    """A healthy champion is renewed too, once what it learned from is old enough."""
    trigger = ask(POLICIES[DEFAULT], situation("", "", age=age))
    assert trigger.retrain is asks
    assert trigger.causes == (("age",) if asks else ())


@pytest.mark.parametrize("name", ["quality", "drift"])
def test_age_is_nothing_to_a_policy_of_signals_alone(name):
    """Only the combined policy has a floor."""
    assert not ask(POLICIES[name], situation("", "", age=400)).retrain


def test_the_default_is_what_the_monitor_decides_by():
    """What the backtest calls the default is what runs nightly."""
    from flows.monitor import POLICY

    assert POLICIES[DEFAULT].trigger == POLICY == TriggerPolicy()


def test_a_rejected_request_waits_a_week():
    """The same rows would bring the same candidate; a week later they are others."""
    old, last = {"age": 60}, START + WEEK
    assert not ask(POLICIES[DEFAULT], situation("", "", rejected=last - timedelta(days=6), **old)).retrain
    assert ask(POLICIES[DEFAULT], situation("", "", rejected=last - WEEK, **old)).retrain
