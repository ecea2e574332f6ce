"""False alarms on windows of a stationary period that no limit was chosen on, beside Evidently's defaults.

Every window is drawn from one pool: whatever is found in it is chance. The period is July to December;
limits were looked at on January to June.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flows.policy.bins import Column
from flows.policy.estimate import estimate_auc
from flows.policy.quality import judge_quality
from flows.policy.signals import judge_estimate, judge_inputs, judge_predictions, list_alarms
from flows.policy.trigger import TriggerPolicy, WindowSigns, decide, name_breaches
from tests.bench.bench_monitoring import MEASURED, SEED, Evidently, World, build_world, figure, show_table

WINDOWS = {100: 3_000, 1_000: 2_000, 10_000: 1_000, 100_000: 200}
THEIRS = {100: 20, 1_000: 20, 10_000: 8, 100_000: 2}
ALARMS, RETRAINS = 0.01, 0.001
RIVAL_ROWS = 10_000  # of the reference that Evidently gets: its time grows with them
DATASET = 0.5  # Evidently's own default share of drifted columns


def measure(period: tuple[datetime, datetime] = MEASURED) -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    world, rows = build_world(*period), list[tuple[object, ...]]()
    rival = Evidently(world.reference, world.columns, RIVAL_ROWS)
    yield _check_rival(world, rival)
    for size, windows in WINDOWS.items():
        alarms, retrains, named = run_windows(world, size, windows)
        any_column, dataset = _run_rival(world, rival, size)
        rows.append((f"{size:,}", windows, alarms, retrains, THEIRS[size], any_column, dataset))
        told = {
            "windows": windows,
            "by_signal": dict(named),
            "evidently_windows": THEIRS[size],
            "evidently_any_column": any_column / THEIRS[size],
            "evidently_dataset_drift": dataset / THEIRS[size],
        }
        share = alarms / windows
        name = f"false alarms: share of stationary windows of {size:,} rows with any alarm"
        yield figure(name, share, f"<= {ALARMS}", share <= ALARMS, **told)
        share = retrains / windows
        name = f"false alarms: share of stationary windows of {size:,} rows with a retrain verdict"
        yield figure(name, share, f"<= {RETRAINS}", share <= RETRAINS, windows=windows)
    head = ("rows", "windows", "with any alarm", "with a retrain")
    show_table((*head, "Evidently: windows", "any column", "dataset drift"), rows)


def run_windows(world: World, size: int, windows: int) -> tuple[int, int, Counter[str]]:
    """Judge windows one after the other; return those with an alarm, with a retrain, and what alarmed."""
    rng, policy = np.random.default_rng(SEED + size), TriggerPolicy()
    alarms, retrains, named, history = 0, 0, Counter[str](), list[WindowSigns]()
    for number in range(windows):
        picked = rng.integers(0, world.size, size)
        found, breaches = judge(world, picked)
        until = datetime(2013, 1, 1, tzinfo=UTC) + number * timedelta(days=7)
        history = [*history[-policy.of :], WindowSigns(until, breaches)]
        named.update((*found, *breaches))
        alarms += bool(found or breaches)
        retrains += decide(history, policy).retrain
    return alarms, retrains, named


def judge(world: World, picked: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Judge rows of the pool as one window; return alarms and breaches."""
    drift = world.profile.judge_codes(*(part[picked] for part in world.encoded))
    score = world.scores.judge_codes(*(part[picked] for part in world.encoded_scores))
    scores, outcomes = (np.asarray(world.pool[n], dtype=float)[picked] for n in ("score", "late"))
    told = ~np.isnan(outcomes)
    estimate = estimate_auc(world.calibration, scores)
    quality = judge_quality((scores[told], outcomes[told]), world.held, arrived=1.0, mature=True)
    signals = (
        judge_inputs(drift),
        judge_predictions(score.columns[0] if score.enough else None),
        judge_estimate(estimate),
    )
    return list_alarms(signals), name_breaches(quality.breaches, drift.drifted_importance)


def _run_rival(world: World, rival: Evidently, size: int) -> tuple[int, int]:
    rng, any_column, dataset = np.random.default_rng(SEED + size), 0, 0
    for _ in range(THEIRS[size]):
        found = rival.find_drifted(_pick(world.pool, rng.integers(0, world.size, size)))
        any_column += bool(found)
        dataset += len(found) >= DATASET * len(rival.columns)
    return any_column, dataset


def _check_rival(world: World, rival: Evidently) -> dict[str, Any]:
    window = _pick(world.pool, np.random.default_rng(SEED).integers(0, world.size, 1_000))
    ours, theirs = sorted(rival.find_drifted(window)), sorted(rival.run_preset(window)[0])
    name = "Evidently's default tests: columns on which the report and the tests alone disagree"
    return figure(name, len(set(ours) ^ set(theirs)), "0", ours == theirs, drifted=theirs)


def _pick(frame: Mapping[str, Column], picked: Any) -> dict[str, Column]:
    return {name: values[picked] for name, values in frame.items()}
