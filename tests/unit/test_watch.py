"""The watch: what breaks is rolled back, and what could not be judged is not called good."""

import math
from dataclasses import replace

import numpy as np

from flows.policy.watch import Watched, judge_watch

WELL = Watched(asked=5_000, answered=4_990, failed=0, before_ms=5, after_ms=6, days=8, wait=1)
NOISE = np.random.default_rng(0).normal(0, 0.01, 12)


def test_a_calm_bake_time_ends_in_keeping_it():
    """Nothing broke and quality was judged: the new champion stays."""
    seen = Watched(asked=100, answered=100, days=14, wait=1, differences=NOISE, sizes=[100] * 12)
    verdict = judge_watch(seen, 14)
    assert (verdict.action, verdict.quality) == ("keep", "ok")


def test_it_goes_on_until_the_bake_time_is_over():
    """A calm start is no end."""
    assert judge_watch(WELL, 14).action == "go on"


def test_what_nobody_asked_is_not_kept():
    """The bake time may pass by a backfill: of 99 things nothing is known yet."""
    verdict = judge_watch(Watched(asked=99, answered=99, days=30, wait=1), 14)
    assert verdict.action == "go on"
    assert "not kept before 100 things were asked" in verdict.reasons[-1]


def test_a_watch_shorter_than_the_labels_wait_says_so():
    """Kept, as nothing else broke, but never called good."""
    verdict = judge_watch(WELL, 5)
    assert (verdict.action, verdict.quality) == ("keep", "not judged")
    assert "quality not judged" in verdict.reasons[0]
    assert "shorter than labels take" in verdict.reasons[0]


def test_each_breach_is_named_and_rolls_back():
    """Quality, errors, coverage and latency: any of them is enough."""
    broken = {
        "quality": replace(WELL, differences=0.1 + NOISE, sizes=[100] * 12),
        "errors": replace(WELL, failed=200, failed_minutes=3),
        "coverage": replace(WELL, answered=4_000, lacking_minutes=3),
        "latency": replace(WELL, after_ms=80, cpu_ms=(0.5, 40)),
    }
    for name, seen in broken.items():
        verdict = judge_watch(seen, 14)
        assert verdict.action == "roll back", name
        assert verdict.reasons[0].startswith(name), verdict.reasons


def test_a_slow_machine_is_not_held_against_the_model():
    """What a version takes of CPU alone tells who is slow; where that is not known, nobody is."""
    slow = replace(WELL, before_ms=25, after_ms=100)
    busy = judge_watch(replace(slow, cpu_ms=(0.5, 0.6)), 14)
    assert busy.action == "go on"
    assert "the machine is slow, not the model" in " ".join(busy.reasons)
    guilty = judge_watch(replace(slow, cpu_ms=(0.5, 40.0)), 14)
    assert guilty.action == "roll back"
    assert "alone it takes 40.00 ms of CPU" in guilty.reasons[0]
    stuck = judge_watch(replace(slow, cpu_ms=(0.5, math.inf)), 14)
    assert stuck.action == "roll back"
    unknown = judge_watch(slow, 14)
    assert unknown.action == "go on"
    assert "is not known" in " ".join(unknown.reasons)


def test_few_failures_are_no_breach():
    """Two of 100 may be chance; a bound is asked, not a share."""
    seen = Watched(asked=100, answered=97, failed=3, failed_minutes=3, lacking_minutes=3, days=0.1)
    assert judge_watch(seen, 7).action == "go on"


def test_few_things_are_no_evidence_though_all_of_them_fail():
    """Shares are judged from 100 things on."""
    seen = Watched(asked=99, answered=0, failed=99, failed_minutes=30, lacking_minutes=30, days=0.1)
    assert judge_watch(seen, 7).action == "go on"
    assert judge_watch(replace(seen, asked=100), 7).action == "roll back"


def test_what_fails_together_is_no_breach():
    """A group that hung or a single bad minute fails at once: it takes three minutes with a failure each."""
    hung = replace(WELL, answered=4_000, failed=990, failed_minutes=2, lacking_minutes=2)
    assert judge_watch(hung, 14).action == "go on"
    again = judge_watch(replace(hung, failed_minutes=3, lacking_minutes=3), 14)
    assert [reason.partition(":")[0] for reason in again.reasons] == ["errors", "coverage"]


def test_who_cannot_be_compared_is_not_judged():
    """The version before may be gone: the watch says so."""
    verdict = judge_watch(Watched(days=9, comparable="version 1 is gone"), 7)
    assert verdict.reasons[0] == "quality not judged: version 1 is gone"
