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
    slow_ms, slower  95th percentile of an answer, and how many times the one before; both must be passed
    alpha     shares are judged by a one-sided bound at this level (Clopper and Pearson, 1934)
    """

    failed: float = 0.01
    coverage: float = 0.95
    slow_ms: float = 50.0
    slower: float = 2.0
    alpha: float = 0.001


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen since the promotion.

    asked, answered, failed  things asked, answered by the new champion, and not for a failure of its own
    before_ms, after_ms      95th percentile of an answer; None where it could not be measured
    differences, sizes       by day whose labels are whole: log loss less that of the version before; rows
    wait                     days that labels take
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    before_ms: float | None = None
    after_ms: float | None = None
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
    """Judge a new champion `days` after its promotion; it is kept once the bake time is over."""
    comparison = compare(seen.differences, seen.sizes, QUALITY)
    quality, told = _judge_quality(seen, comparison, bake)
    breaches = tuple(_find_breaches(seen, policy))
    if quality == "breach":
        breaches = (f"quality: {told}", *breaches)
    if breaches:
        return WatchVerdict("roll back", quality, breaches, comparison)
    over = seen.days >= bake
    named = () if quality == "breach" else (f"quality {'not judged' if quality != 'ok' else 'ok'}: {told}",)
    answered = f"{seen.answered} of {seen.asked} things answered by it, {seen.failed} failed"
    state = f"{seen.days:.1f} of {bake:g} days watched"
    return WatchVerdict("keep" if over else "go on", quality, (*named, answered, state), comparison)


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
    if bound_share(seen.failed, seen.asked, policy.alpha) > policy.failed:
        found.append(f"errors: it failed on {seen.failed} of {seen.asked}, {policy.failed:.0%} allowed")
    lacking = seen.asked - seen.answered
    if bound_share(lacking, seen.asked, policy.alpha) > 1 - policy.coverage:
        wanted = f"{policy.coverage:.0%} wanted"
        found.append(f"coverage: it answered {seen.answered} of {seen.asked}, {wanted}")
    before, after = seen.before_ms, seen.after_ms
    if before and after and after > policy.slow_ms and after > policy.slower * before:
        limit = f"at most {policy.slow_ms:g} ms or {policy.slower:g} times that expected"
        found.append(f"latency: 95% of answers within {after:.1f} ms, before within {before:.1f} ms, {limit}")
    return found
