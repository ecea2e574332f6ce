"""May a retrain be asked for again? One answer a window, and patience that ends after rejections."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

HAND, EVENT, SCHEDULE = "hand", "event", "schedule"


@dataclass(frozen=True, slots=True)
class PatiencePolicy:
    """When retrains that nobody asked for by hand are held.

    rejections   8 in a row, the last of which came no nearer to the champion than those before: what is
                 tried is the same thing again. At a week each, two months; after fewer, the candidate
                 that passes next is often worth its wait (0018)
    nearer       0.001 of log loss: a smaller step nearer is chance
    wait         28 days of newer labels are new evidence, and with each further rejection as many more
    most         of the days that may be waited for
    """

    rejections: int = 8
    nearer: float = 0.001
    wait: timedelta = timedelta(days=28)
    most: timedelta = timedelta(days=112)


@dataclass(frozen=True, slots=True)
class Tried:
    """One retrain of before.

    window     key of the monitor's window that asked for it, or ""
    evidence   what it was judged against and made of: the champion, the feature service, the code
    behind     by how much its log loss was above the champion's; None if nothing was compared
    cause      HAND, EVENT or SCHEDULE: what people try says nothing of what is worth trying again unasked
    """

    until: datetime
    passed: bool
    window: str = ""
    evidence: str = ""
    behind: float | None = None
    cause: str = EVENT


@dataclass(frozen=True, slots=True)
class Leave:
    """Whether to retrain, and why or why not."""

    granted: bool
    reason: str


def may_retrain(
    history: Sequence[Tried],
    *,
    cause: str,
    until: datetime,
    window: str = "",
    evidence: str = "",
    policy: PatiencePolicy = PatiencePolicy(),
) -> Leave:
    """Decide on a request, given every retrain that came to its end, oldest first."""
    answered = next((one for one in history if window and one.window == window), None)
    if answered is not None:
        came = "passed" if answered.passed else "was rejected"
        return Leave(
            False, f"window {window} was answered: its retrain until {answered.until:%Y-%m-%d} {came}"
        )
    if cause == HAND:
        return Leave(True, "a person asked for it")
    row = _list_rejections(history)
    if len(row) < policy.rejections:
        return Leave(True, f"{len(row)} rejections in a row, patience ends at {policy.rejections}")
    last, wait = row[-1], min(policy.most, policy.wait * (1 + len(row) - policy.rejections))
    due = last.until + wait
    new = (
        (last.evidence != evidence, "the champion, features or code are others than at the last rejection"),
        (_comes_nearer(row, policy), "the last candidate came nearer to the champion"),
        (until >= due, f"{(until - last.until).days} days of newer labels since the last rejection"),
    )
    held = (
        f"{len(row)} retrains in a row were rejected and none came nearer: held until there are labels of "
        f"{due:%Y-%m-%d}, another champion, other features or other code; by hand it runs at once"
    )
    grounds = [reason for holds, reason in new if holds]
    return Leave(bool(grounds), grounds[0] if grounds else held)


def _list_rejections(history: Sequence[Tried]) -> list[Tried]:
    """Return the rejections since the last retrain that passed, oldest first, but those by hand."""
    row: list[Tried] = []
    for one in history:
        row = [] if one.passed else [*row, *([one] if one.cause != HAND else [])]
    return row


def _comes_nearer(row: Sequence[Tried], policy: PatiencePolicy) -> bool:
    """Tell whether the last rejected was surely nearer than any before."""
    before = [one.behind for one in row[:-1] if one.behind is not None]
    last = row[-1].behind
    return last is not None and bool(before) and last < min(before) - policy.nearer
