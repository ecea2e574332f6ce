"""When windows of verdicts become an incident, and when the signals are well again: one rule, no state.

The same windows always give the same incidents under the same ids, whatever runs were killed or repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from flows.policy.trigger import DAY, WEEK, TriggerPolicy


@dataclass(frozen=True, slots=True)
class IncidentPolicy:
    """When windows of one length are an incident.

    needed, of  it opens when a signal fires in so many of the last `of` windows and in the latest
    well        it is over when so many windows in a row, the latest of which could tell, found nothing
    """

    needed: int
    of: int
    well: int


# The alarms of a day that are an incident. The others have alerts of their own, and one that stays on (say an
# input that is always missing) would keep an incident open in which these went unheard.
EARLY_SIGNS = ("inputs", "predictions")
# Weeks decide on a retrain, so their incidents follow its rule. A day only warns: the first one that alarms
# is told, and as one well day between odd ones is no all-clear, a stretch of odd days is told once.
POLICIES = {
    WEEK: IncidentPolicy(TriggerPolicy().needed, TriggerPolicy().of, TriggerPolicy().needed),
    DAY: IncidentPolicy(1, 1, 2),
}


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """One version's window: its verdict's key, what it breached, and whether it had what it takes to tell."""

    key: str
    version: str
    until: datetime
    breaches: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    told: bool = True
    kind: str = WEEK


@dataclass(frozen=True, slots=True)
class Incident:
    """A stretch of windows in which signals fired; `cleared` is the window that found all well again."""

    id: str
    opened: JudgedWindow
    signals: tuple[str, ...]
    reasons: tuple[str, ...]
    windows: int = 1
    cleared: JudgedWindow | None = None


def find_all_incidents(problem: str, windows: Sequence[JudgedWindow]) -> list[Incident]:
    """Return the incidents of weeks, then those of days: what one says ends or opens nothing of the other."""
    return [
        incident
        for kind, policy in POLICIES.items()
        for incident in find_incidents(problem, [w for w in windows if w.kind == kind], policy)
    ]


def find_incidents(
    problem: str, windows: Sequence[JudgedWindow], policy: IncidentPolicy = POLICIES[WEEK]
) -> list[Incident]:
    """Return the incidents in windows of one length, oldest first; at most the last one is open.

    One opens when a signal, any that a window names as a breach, fires by the policy. Whatever fires while it
    is open joins it. A single good window between bad ones is no all-clear. A new champion is judged by its
    own windows alone, and cleared by its first one.
    """
    found: list[Incident] = []
    ordered = sorted(windows, key=lambda w: (w.until, _rank(w.version)))
    for n, window in enumerate(ordered):
        mine = [w for w in ordered[: n + 1] if w.version == window.version]
        recent = mine[-policy.of :]
        counts = {signal: sum(signal in w.breaches for w in recent) for signal in window.breaches}
        fired = tuple(signal for signal, count in counts.items() if count >= policy.needed)
        last = found[-1] if found and found[-1].cleared is None else None
        if last is None and fired:
            told = (f"{s}: breach in {counts[s]} of the last {len(recent)} windows" for s in fired)
            reasons = (*told, *window.reasons)
            found.append(Incident(f"{problem}/{window.key}", window, fired, reasons))
        elif last is not None:
            joined = tuple(dict.fromkeys((*last.signals, *fired)))
            last = replace(last, signals=joined, windows=last.windows + 1)
            well = window.told and not any(w.breaches for w in mine[-policy.well :])
            found[-1] = replace(last, cleared=window) if well else last
    return found


def _rank(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
