"""Retrain policies: when a new model is asked for, by the calendar, by what the monitor says, or both."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from flows.policy.trigger import SIGNALS, Trigger, TriggerPolicy, WindowSigns, decide

WEEK, MONTH = "week", "month"
DEFAULT = "combined"  # what the project itself runs under


@dataclass(frozen=True, slots=True)
class RetrainPolicy:
    """Asks by the `calendar` (WEEK: each decision; MONTH: a month's first), or by `trigger`, or never."""

    name: str
    about: str
    calendar: str = ""
    trigger: TriggerPolicy | None = None

    @property
    def watches(self) -> tuple[str, ...]:
        """The signals of the monitor that it heeds."""
        return self.trigger.signals if self.trigger else ()


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known at a decision.

    today, asked_on  local dates of now and of the last request, or of the period's first day
    history          what the champion's own weeks said, oldest first
    trained          instant of the newest row that the champion learned from
    rejected         end of the window of the last request that brought no new champion
    """

    today: date
    asked_on: date
    history: Sequence[WindowSigns]
    trained: datetime
    rejected: datetime | None


POLICIES = {
    policy.name: policy
    for policy in (
        RetrainPolicy("never", "the first model is left alone"),
        RetrainPolicy("weekly", "asks each week", calendar=WEEK),
        RetrainPolicy("monthly", "asks in the first week of each month", calendar=MONTH),
        RetrainPolicy(
            "drift",
            "asks when what the model relies on moved",
            trigger=TriggerPolicy(("drift",), oldest=None),
        ),
        RetrainPolicy(
            "quality",
            "asks when quality surely fell",
            trigger=TriggerPolicy(tuple(s for s in SIGNALS if s != "drift"), oldest=None),
        ),
        RetrainPolicy(
            "combined", "asks on quality, on drift, or when the model has grown old", trigger=TriggerPolicy()
        ),
    )
}


def ask(policy: RetrainPolicy, now: Situation) -> Trigger:
    """Decide whether the policy asks for a retrain."""
    if policy.trigger is not None:
        return decide(now.history, policy.trigger, trained=now.trained, rejected=now.rejected)
    if policy.calendar == WEEK:
        return Trigger(True, ("week",), ("a week is over",))
    if policy.calendar == MONTH:
        month, last = (f"{day:%Y-%m}" for day in (now.today, now.asked_on))
        due = month != last
        told = f"the last request was in {last}, it is {month}"
        return Trigger(due, ("month",) if due else (), (told,))
    return Trigger(False, (), ("the policy never asks",))
