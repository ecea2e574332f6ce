"""When windows of verdicts add up to a retrain: k of the last n and the latest, or the model's age."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

SIGNALS = ("quality", "underrating", "overrating", "drift")
WEEK, DAY = "week", "day"  # what windows are called by their length: the policy's own, and a local day
LONGEST_DAY = timedelta(hours=25)  # the one on which clocks are put back


@dataclass(frozen=True, slots=True)
class TriggerPolicy:
    """When to ask for a retrain.

    signals          what is heeded of SIGNALS.
    window           7 days: one full turn of the week, so that weekdays do not pass for drift.
    needed, of       2 of the last 3 windows and the latest one: one odd week (a storm, a holiday) is
                     not decay, and a breach that has healed needs no model.
    drift_share      0.5: half of what the model relies on moved far; Evidently's own default share.
    after_rejection  7 days after a request that brought no new champion: on the same data the same
                     candidate would be rejected again, and a week is the least that makes them others.
    oldest           the newest row that the model learned from may be 25 days old: at weekly decisions,
                     two weeks of service after the gate's 14 days. What a model has not seen it does not
                     know, and its decay is measured only once it has cost something. Sooner a candidate
                     knows little that the champion does not. None: age asks for nothing.
    """

    signals: tuple[str, ...] = SIGNALS
    window: timedelta = timedelta(days=7)
    needed: int = 2
    of: int = 3
    drift_share: float = 0.5
    after_rejection: timedelta = timedelta(days=7)
    oldest: timedelta | None = timedelta(days=25)


@dataclass(frozen=True, slots=True)
class WindowSigns:
    """What one window said: which of SIGNALS it breached, nothing where it could not tell."""

    until: datetime
    breaches: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trigger:
    """Whether to retrain; `causes` are the signals that fired, or "age", be they held or not."""

    retrain: bool
    causes: tuple[str, ...]
    reasons: tuple[str, ...]


def name_length(length: timedelta, policy: TriggerPolicy = TriggerPolicy()) -> str:
    """Return what a window of the length is: one that decides, a day, which warns, or neither: nothing."""
    if length == policy.window:
        return WEEK
    return DAY if length <= LONGEST_DAY else ""


def decide(
    history: Sequence[WindowSigns],
    policy: TriggerPolicy = TriggerPolicy(),
    *,
    trained: datetime | None = None,
    rejected: datetime | None = None,
) -> Trigger:
    """Decide on the champion's own windows, in any order.

    `trained` is the instant of the newest row that it learned from, `rejected` that of the last request that
    brought no new champion. A signal is counted on its own: a week too high and a week too low are
    not one trend. A window that could not tell counts as no breach.
    """
    recent = sorted(history, key=lambda w: w.until)[-policy.of :]
    if not recent:
        return Trigger(False, (), ("no windows yet",))
    found = [(signal, *_judge_signal(recent, signal, policy)) for signal in policy.signals]
    found += _judge_age(recent[-1].until, trained, policy)
    causes = tuple(signal for signal, fires, _ in found if fires)
    if not causes:
        return Trigger(False, (), tuple(reason for _, _, reason in found))
    reasons = tuple(reason for _, fires, reason in found if fires)
    if rejected is not None and recent[-1].until < rejected + policy.after_rejection:
        wait = f"held: {policy.after_rejection.days} days after the rejected retrain at {rejected:%Y-%m-%d}"
        return Trigger(False, causes, (*reasons, wait))
    return Trigger(True, causes, (*reasons, *recent[-1].reasons))


def name_breaches(
    quality: Sequence[str], drifted_importance: float, policy: TriggerPolicy = TriggerPolicy()
) -> tuple[str, ...]:
    """Name a window's breaches: those of its quality verdict, and drift if it moved far enough."""
    return (*quality, "drift") if drifted_importance >= policy.drift_share else tuple(quality)


def _judge_signal(recent: Sequence[WindowSigns], signal: str, policy: TriggerPolicy) -> tuple[bool, str]:
    breaches = [signal in window.breaches for window in recent]
    fires = breaches[-1] and sum(breaches) >= policy.needed
    latest = "the latest too" if breaches[-1] else "not the latest"
    counted = f"{signal}: breach in {sum(breaches)} of the last {len(recent)} windows"
    return fires, f"{counted}, {latest}; {policy.needed} of {policy.of} with the latest are needed"


def _judge_age(now: datetime, trained: datetime | None, policy: TriggerPolicy) -> list[tuple[str, bool, str]]:
    if trained is None or policy.oldest is None:
        return []
    told = f"age: the newest row learned from is {(now - trained).days} days old"
    return [("age", now - trained >= policy.oldest, f"{told}; {policy.oldest.days} are allowed")]
