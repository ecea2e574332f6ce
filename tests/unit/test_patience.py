"""Retrains are answered once, and not asked for for ever."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.policy.patience import EVENT, HAND, SCHEDULE, Tried, may_retrain

START = datetime(2013, 3, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def tried(week: int, *, passed: bool = False, behind: float = 0.01, window: str = "") -> Tried:
    """Return a retrain of some week, by the same code against the same champion."""
    return Tried(START + week * WEEK, passed, window, "champion 1", behind)


ROW = [tried(week) for week in range(8)]


def ask(
    history: list[Tried], week: int, cause: str = EVENT, window: str = "", evidence: str = "champion 1"
) -> bool:
    """Return whether a retrain may be."""
    leave = may_retrain(history, cause=cause, until=START + week * WEEK, window=window, evidence=evidence)
    assert leave.reason
    return leave.granted


def test_a_window_is_answered_once() -> None:
    """The event that is sent again brings no second retrain, whatever the first came to."""
    for passed in (True, False):
        history = [tried(1, passed=passed, window="week 1")]
        assert not ask(history, 1, window="week 1")
        assert ask(history, 2, window="week 2")


def test_eight_rejections_in_a_row_end_the_patience() -> None:
    """Seven do not; a retrain that passed begins anew."""
    assert ask(ROW[:7], 8)
    assert not ask(ROW, 8)
    assert not ask(ROW, 8, cause=SCHEDULE)
    assert ask([*ROW[:7], tried(7, passed=True), *ROW[:7]], 8)


def test_what_people_try_holds_nothing_back() -> None:
    """Rejections by hand are none of the row, whatever they were; one that passed ends it."""
    by_hand = [replace(tried(7), cause=HAND)] * 9
    assert ask([*ROW[:7], *by_hand], 8)
    assert not ask([*ROW, *by_hand], 8)
    assert ask([*ROW, replace(tried(7, passed=True), cause=HAND)], 8)


def test_a_person_is_never_held() -> None:
    """By hand it runs at once."""
    assert ask(ROW, 8, cause=HAND)


def test_another_champion_or_other_code_is_new_evidence() -> None:
    """What was rejected was rejected against something else."""
    assert ask(ROW, 8, evidence="champion 2")


def test_candidates_that_come_nearer_go_on() -> None:
    """A candidate surely nearer to the champion than all before is worth another try."""
    assert ask([*ROW[:7], tried(7, behind=0.004)], 8)
    assert not ask([*ROW[:7], tried(7, behind=0.0095)], 8)


@pytest.mark.parametrize(("rejections", "weeks"), [(8, 4), (9, 8), (10, 12), (14, 16)])
def test_the_wait_grows_with_each_rejection_and_ends(rejections: int, weeks: int) -> None:
    """Four weeks of newer labels, then eight, then twelve, and never more than sixteen."""
    history = [tried(week) for week in range(rejections)]
    last = rejections - 1
    assert not ask(history, last + weeks - 1)
    assert ask(history, last + weeks)
