"""When windows of verdicts become an incident, and when the signals are well again: one rule, no state.

The same windows always give the same incidents under the same ids, whatever runs were killed or repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from flows.policy.trigger import TriggerPolicy


@dataclass(frozen=True, slots=True)
class JudgedWindow:
    """One version's window: its verdict's key, what it breached, and whether it had the labels to tell."""

    key: str
    version: str
    until: datetime
    breaches: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    told: bool = True


@dataclass(frozen=True, slots=True)
class Incident:
    """A stretch of windows in which signals fired; `cleared` is the window that found all well again."""

    id: str
    opened: JudgedWindow
    signals: tuple[str, ...]
    reasons: tuple[str, ...]
    windows: int = 1
    cleared: JudgedWindow | None = None


def find_incidents(
    problem: str, windows: Sequence[JudgedWindow], policy: TriggerPolicy = TriggerPolicy()
) -> list[Incident]:
    """Return the incidents of a problem, oldest first; at most the last one is open.

    One opens when a signal, any that verdicts name as a breach, fires by the trigger's rule: `needed` of
    the last `of` windows of the version, and the latest. Whatever fires while it is open joins it. It is
    over when `needed` windows in a row, the latest of which could tell, found nothing: a single good week
    between bad ones is no all-clear. A new champion is judged by its own windows alone, and cleared by its
    first one.
    """
    found: list[Incident] = []
    ordered = sorted(windows, key=lambda w: (w.until, _rank(w.version)))
    for n, window in enumerate(ordered):
        recent = [w for w in ordered[: n + 1] if w.version == window.version][-policy.of :]
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
            well = window.told and not any(w.breaches for w in recent[-policy.needed :])
            found[-1] = replace(last, cleared=window) if well else last
    return found


def _rank(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
