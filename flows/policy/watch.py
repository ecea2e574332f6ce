"""The watch over a new champion: keep it, or make the one before it serve again. Pure.

Quality is compared with the version before, which is asked about the same things once their labels are
whole; by a test that may be looked at every day. What else can break does so at once, and needs no labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from flows.policy.sequential import Comparison, SequentialPolicy, compare
from flows.policy.signals import bound_share

QUALITY = SequentialPolicy(min_days=5)


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """What is a breach.

    failed    share of requests that the champion was asked and could not answer
    coverage  share of answers that it must have given itself
    least, minutes  things asked, and distinct minutes in which it went wrong: fewer are no breach of a share,
                    for things asked together, or behind one request that hangs, fail together; and of
                    fewer asked nothing is known that it could be kept for
    slow_ms, slower  95th percentile of an answer, and how many times the one before; both must be passed,
                     and the model alone must take so many times the CPU: a busy machine is no breach
    alpha     shares are judged by a one-sided bound at this level (Clopper and Pearson, 1934)
    """

    failed: float = 0.01
    coverage: float = 0.95
    least: int = 100
    minutes: int = 3
    slow_ms: float = 50.0
    slower: float = 2.0
    alpha: float = 0.001


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen since the promotion.

    asked, answered, failed  things asked, answered by the new champion, and not for a failure of its own
    failed_minutes, lacking_minutes  distinct minutes with one that failed, and with one it did not answer
    before_ms, after_ms      95th percentile of an answer; None where it could not be measured
    cpu_ms                   the same of either version alone, of CPU; None where it was not measured
    differences, sizes       by day whose labels are whole: log loss less that of the version before; rows
    wait                     days that labels take
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    failed_minutes: int = 0
    lacking_minutes: int = 0
    before_ms: float | None = None
    after_ms: float | None = None
    cpu_ms: tuple[float, float] | None = None
    differences: Sequence[float] = ()
    sizes: Sequence[float] = ()
    days: float = 0.0  # since the promotion, as the data count them
    wait: float = 0.0
    comparable: str = ""  # why the version before cannot be asked, if so


@dataclass(frozen=True, slots=True)
class WatchVerdict:
    """What is to be done, and why; `quality` is "ok", "breach" or "not judged"."""

    action: Literal["roll back", "keep", "go on"]
    quality: str
    reasons: tuple[str, ...]
    comparison: Comparison | None = field(default=None, compare=False)


def judge_watch(seen: Watched, bake: float, policy: WatchPolicy = WatchPolicy()) -> WatchVerdict:
    """Judge a new champion `days` after its promotion; once the bake time is over what was used is kept."""
    comparison = compare(seen.differences, seen.sizes, QUALITY)
    quality, told = _judge_quality(seen, comparison, bake)
    slow, latency = _judge_latency(seen, policy)
    breaches = (*_find_breaches(seen, policy), *([latency] if slow else []))
    if quality == "breach":
        breaches = (f"quality: {told}", *breaches)
    if breaches:
        return WatchVerdict("roll back", quality, breaches, comparison)
    over = seen.days >= bake and seen.asked >= policy.least
    named = () if quality == "breach" else (f"quality {'not judged' if quality != 'ok' else 'ok'}: {told}",)
    answered = f"{seen.answered} of {seen.asked} things answered by it, {seen.failed} failed"
    state = f"{seen.days:.1f} of {bake:g} days watched"
    if seen.days >= bake and not over:
        state += f"; it is not kept before {policy.least} things were asked"
    reasons = (*named, *([latency] if latency else []), answered, state)
    return WatchVerdict("keep" if over else "go on", quality, reasons, comparison)


def is_slow(before_ms: float | None, after_ms: float | None, policy: WatchPolicy = WatchPolicy()) -> bool:
    """Return whether answers take too long, be it the model's doing or the machine's."""
    return bool(before_ms and after_ms and after_ms > policy.slow_ms and after_ms > policy.slower * before_ms)


def _judge_quality(seen: Watched, comparison: Comparison, bake: float) -> tuple[str, str]:
    if comparison.low > 0:
        return "breach", comparison.reasons[-1]
    if seen.comparable:
        return "not judged", seen.comparable
    if comparison.effective < QUALITY.min_days:
        least = seen.wait + QUALITY.min_days
        short = f"; a watch of {bake:g} days is shorter than labels take" if bake < least else ""
        whole = f"{comparison.days} days have all their labels, {QUALITY.min_days} are needed"
        return "not judged", f"{whole}, and a label takes up to {seen.wait:g} days{short}"
    return "ok", comparison.reasons[-1]


def _find_breaches(seen: Watched, policy: WatchPolicy) -> list[str]:
    found = []
    if _is_above(seen.failed, seen.failed_minutes, policy.failed, seen, policy):
        minutes = f"in {seen.failed_minutes} minutes"
        found.append(
            f"errors: it failed on {seen.failed} of {seen.asked} {minutes}, {policy.failed:.0%} allowed"
        )
    lacking = seen.asked - seen.answered
    if _is_above(lacking, seen.lacking_minutes, 1 - policy.coverage, seen, policy):
        wanted = f"{policy.coverage:.0%} wanted"
        found.append(f"coverage: it answered {seen.answered} of {seen.asked}, {wanted}")
    return found


def _is_above(count: int, minutes: int, allowed: float, seen: Watched, policy: WatchPolicy) -> bool:
    """Return whether a share is surely above what is allowed, over enough things and in enough minutes."""
    enough = seen.asked >= policy.least and minutes >= policy.minutes
    return enough and bound_share(count, seen.asked, policy.alpha) > allowed


def _judge_latency(seen: Watched, policy: WatchPolicy) -> tuple[bool, str]:
    """Return whether the model is too slow, and what is to be said; nothing if answers are fast enough."""
    if not is_slow(seen.before_ms, seen.after_ms, policy):
        return False, ""
    told = f"latency: 95% of answers within {seen.after_ms:.1f} ms, before within {seen.before_ms:.1f} ms"
    limit = f"at most {policy.slow_ms:g} ms or {policy.slower:g} times that expected"
    if seen.cpu_ms is None:
        return False, f"{told}; what either takes alone is not known: nothing is held against the model"
    before, after = seen.cpu_ms
    alone = f"alone it takes {after:.2f} ms of CPU, the one before {before:.2f}"
    if after > policy.slower * before:
        return True, f"{told}, {limit}; {alone}"
    return False, f"{told}; {alone}: the machine is slow, not the model"
