"""Which past to learn from: candidate windows judged on the newest labelled days. Pure.

Expanding, all that is known, wins unless another is surely better: fitting on the latest two months made
December worse than useless, and a window that looks better on a few days mostly is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.policy.gate import Floats, log_loss, resample_days


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows are learned from, and what each counts.

    days       how far back from the newest row; None: all
    half_life  days after which a row counts half as much as the newest; None: all count alike
    """

    name: str
    days: int | None = None
    half_life: int | None = None


EXPANDING = Window("expanding")
WINDOWS = (
    EXPANDING,
    Window("last 90 days", days=90),
    Window("last 180 days", days=180),
    Window("half-life of 90 days", half_life=90),
)


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """How windows are compared.

    windows         those that are tried, EXPANDING first
    judged_days     newest days of the rows, on which they are compared: four turns of the week
    min_days        days among them that have rows: the bootstrap resamples days
    min_rows        a window with fewer rows to learn from is not tried
    max_rows        rows that are learned from to compare; with more, every n-th counts, for all windows alike
    level           confidence of the intervals; the challengers share its error (Bonferroni)
    resamples, seed of the bootstrap
    """

    windows: tuple[Window, ...] = WINDOWS
    judged_days: int = 28
    min_days: int = 14
    min_rows: int = 2_000
    max_rows: int = 20_000
    level: float = 0.95
    resamples: int = 2_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """One window, and what came of it; without a figure if it was not tried, and `reason` says why.

    rows        that it learned from when it was judged
    log_loss    mean on the judged rows, in nats
    difference  to the expanding window's; below zero is better; `low` to `high` its interval
    """

    name: str
    rows: int
    log_loss: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """The window to learn from; `improved` if it is surely better than the expanding one."""

    window: Window
    improved: bool
    reasons: tuple[str, ...]


def compare(
    outcomes: Floats,
    scores: Mapping[str, Floats],
    days: NDArray[np.int64],
    rows: Mapping[str, int],
    policy: WindowPolicy = WindowPolicy(),
) -> tuple[Tried, ...]:
    """Return what each window came to, paired by row and resampled by day.

    outcomes  (n,) 0/1 of the judged rows
    scores    name of a window -> (n,) probabilities; EXPANDING's among them
    days      (n,) integers: which day each row belongs to
    rows      name of a window -> how many rows it learned from
    """
    losses = {name: log_loss(outcomes, given) for name, given in scores.items()}
    usual = losses[EXPANDING.name]
    level = 1 - (1 - policy.level) / max(len(losses) - 1, 1)
    found = []
    for name, loss in losses.items():
        mean = float(loss.mean())
        if name == EXPANDING.name:
            found.append(Tried(name, rows[name], mean, reason="what the others are compared with"))
            continue
        difference, low, high = resample_days(loss - usual, days, level, policy.resamples, policy.seed)
        told = f"log loss differs by {difference:+.4f} ({level:.1%}: {low:+.4f} to {high:+.4f})"
        found.append(Tried(name, rows[name], mean, difference, low, high, told))
    return tuple(found)


def choose(tried: Sequence[Tried], policy: WindowPolicy = WindowPolicy()) -> WindowChoice:
    """Return the best of the windows that are surely better than the expanding one, or that one."""
    windows = {window.name: window for window in policy.windows}
    judged = [one for one in tried if one.difference is not None]
    better = [one for one in judged if one.high is not None and one.high < 0]
    reasons = tuple(f"{one.name}: {one.reason}" for one in tried if one.name != EXPANDING.name)
    if not better:
        told = f"{EXPANDING.name}: none of {len(judged)} challengers is surely better"
        return WindowChoice(EXPANDING, False, (told, *reasons))
    best = min(better, key=lambda one: one.difference or 0.0)
    return WindowChoice(windows[best.name], True, (f"{best.name}: surely better", *reasons))
