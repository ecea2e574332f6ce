"""False alarms on windows of a stationary period that no limit was chosen on, beside Evidently's defaults.

Every window is drawn from one pool: whatever is found in it is chance. The period is July to December;
limits were looked at on January to June. The pool is binned once and a window is a choice of its rows; that
this gives what the public function gives on the columns themselves is checked in the same run.

Windows drawn at random have no weather of their own. Days and weeks as they came are judged too, against the
weeks between them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np

from feature_repo.problem import PROBLEM
from flows.policy.bins import Column
from flows.policy.drift import DriftVerdict, judge_drift
from flows.policy.estimate import estimate_auc
from flows.policy.quality import judge_quality
from flows.policy.signals import judge_estimate, judge_inputs, judge_predictions, list_alarms
from flows.policy.trigger import TriggerPolicy, WindowSigns, decide, name_breaches
from tests.bench.bench_monitoring import (
    MEASURED,
    SCORE,
    SEED,
    Evidently,
    World,
    build_world,
    figure,
    show_table,
)
from tests.bench.real_days import build_days, find_alarms

Span = tuple[datetime, datetime]
Counts = tuple[int, int, Counter[str]]  # windows with an alarm, with a retrain verdict; what alarmed
Drifts = tuple[DriftVerdict, DriftVerdict]  # of the inputs, of the score

SIZES = (100, 1_000, 10_000, 100_000)  # rows a window
WINDOWS = 3_000  # at each size: none among as many is surely (95%) below 1 in 1,000, and fewer would not be
PARTS = 2  # processes, each with its own row of windows
THEIRS = {100: 200, 1_000: 200, 10_000: 100, 100_000: 40}  # Evidently's: the first of the same windows
CHECKED = 3  # windows of each size that are judged by the public function too
ALARMS, RETRAINS = 0.01, 0.001
REAL_DAYS, REAL_WEEKS = 0.1, 0.1  # an odd day in ten is what a person still looks into
SURE = 0.95
RIVAL_ROWS = 10_000  # of the reference that Evidently gets: its time grows with them
DATASET = 0.5  # Evidently's own default share of drifted columns


def measure(period: Span = MEASURED) -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    world, rows = build_world(*period), list[tuple[object, ...]]()
    with ProcessPoolExecutor(PARTS, mp_context=get_context("spawn")) as pool:
        # The large windows take longest: they go first, so that no process waits for the other.
        ours = {
            size: [pool.submit(run_windows, world, size, part, WINDOWS // PARTS) for part in range(PARTS)]
            for size in reversed(SIZES)
        }
        rival = Evidently(world.reference, world.columns, RIVAL_ROWS)
        yield _check_rival(world, rival)
        yield _check_codes(world)
        theirs = {size: _run_rival(world, rival, size) for size in SIZES}
        for size in SIZES:
            alarms, retrains, named = _add_up(ours[size])
            any_column, dataset = theirs[size]
            rows.append((f"{size:,}", WINDOWS, alarms, retrains, THEIRS[size], any_column, dataset))
            told = {
                "by_signal": dict(named),
                "evidently_windows": THEIRS[size],
                "evidently_any_column": any_column / THEIRS[size],
                "evidently_dataset_drift": dataset / THEIRS[size],
            }
            name = f"false alarms: share of stationary windows of {size:,} rows with any alarm"
            yield _tell_share(name, alarms, ALARMS, told)
            name = f"false alarms: share of stationary windows of {size:,} rows with a retrain verdict"
            yield _tell_share(name, retrains, RETRAINS, {})
    head = ("rows", "windows", "with any alarm", "with a retrain")
    show_table((*head, "Evidently: windows", "any column", "dataset drift"), rows)
    yield from judge_real_days(period)


def judge_real_days(period: Span) -> Iterator[dict[str, Any]]:
    """Yield the share of ordinary days and weeks, held out and as they came, that alarm."""
    days = build_days(*period)
    lengths = {"days": (1, [frame for _, frame in days.held_out]), "weeks": (7, list(days.list_weeks()))}
    for (what, (length, frames)), bar in zip(lengths.items(), (REAL_DAYS, REAL_WEEKS), strict=True):
        found = [find_alarms(days.world, frame, length) for frame in frames]
        alarms = sum(bool(names) for names, _ in found)
        breaches = sum(moved >= TriggerPolicy().drift_share for _, moved in found)
        named = Counter(name for names, _ in found for name in names)
        told = {"windows": len(found), "count": alarms, "by_signal": dict(named), "drift_breaches": breaches}
        share = alarms / len(found)
        name = f"false alarms: share of real {what}, held out, of the same season, with any alarm"
        yield figure(name, round(share, 4), f"<= {bar}", share <= bar, **told)
        name = f"false alarms: share of the same {what} with a breach of drift"
        yield figure(name, breaches / len(found), "0", breaches == 0)


def run_windows(world: World, size: int, part: int, windows: int) -> Counts:
    """Judge windows one after the other; return those with an alarm, with a retrain, and what alarmed."""
    policy = TriggerPolicy()
    alarms, retrains, named, history = 0, 0, Counter[str](), list[WindowSigns]()
    for number, picked in enumerate(islice(draw_windows(world, size, part), windows)):
        found, breaches = judge(world, picked)
        until = datetime(2013, 1, 1, tzinfo=UTC) + number * timedelta(days=7)
        history = [*history[-policy.of :], WindowSigns(until, breaches)]
        named.update((*found, *breaches))
        alarms += bool(found or breaches)
        retrains += decide(history, policy).retrain
    return alarms, retrains, named


def draw_windows(world: World, size: int, part: int) -> Iterator[Any]:
    """Yield a part's windows without end, as rows of the pool; always the same ones."""
    rng = np.random.default_rng([SEED, size, part])
    while True:
        yield rng.integers(0, world.size, size)


def bound_above(count: int, of: int) -> float:
    """Return the upper end of a share's one-sided exact 95% interval (Clopper and Pearson, 1934)."""
    from scipy.stats import binomtest

    return float(binomtest(count, of, alternative="less").proportion_ci(SURE, "exact").high)


def judge(world: World, picked: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Judge rows of the pool as one window; return alarms and breaches."""
    drift, score = judge_rows(world, picked)
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


def judge_rows(world: World, picked: Any) -> Drifts:
    """Judge inputs and score of rows of the pool by the bins that all its rows were put in once."""
    return (
        world.profile.judge_codes(*(part[picked] for part in world.encoded)),
        world.scores.judge_codes(*(part[picked] for part in world.encoded_scores)),
    )


def judge_columns(world: World, picked: Any) -> Drifts:
    """Judge the same by the function that the monitor calls, on the columns themselves."""
    window, calendar = _pick(world.pool, picked), PROBLEM.calendar
    return (
        judge_drift(world.reference, window, world.columns, calendar=calendar, days=world.days),
        judge_drift(world.reference, window, [SCORE], calendar=calendar, days=world.days),
    )


def is_same(one: Drifts, other: Drifts) -> bool:
    """Whether every column's level and figures, to the last bit, and what follows of them are the same."""
    return _strip(one) == _strip(other)


def _strip(drifts: Drifts) -> list[tuple[object, ...]]:
    # The words alone may differ: those by codes lack medians and the like.
    columns = [(c.name, c.psi, c.by_chance, c.low, c.p_value, c.level) for d in drifts for c in d.columns]
    return [*columns, *((d.enough, d.drifted_importance, d.rows, d.reference_rows) for d in drifts)]


def _add_up(parts: list[Future[Counts]]) -> Counts:
    alarms, retrains, named = zip(*(part.result() for part in parts), strict=True)
    return sum(alarms), sum(retrains), sum(named, Counter[str]())


def _tell_share(name: str, count: int, bar: float, told: Mapping[str, object]) -> dict[str, Any]:
    share, above = count / WINDOWS, bound_above(count, WINDOWS)
    return figure(
        name, share, f"<= {bar}", share <= bar, windows=WINDOWS, count=count, surely_below=above, **told
    )


def _check_codes(world: World) -> dict[str, Any]:
    differing = [
        size
        for size in SIZES
        for picked in islice(draw_windows(world, size, 0), CHECKED)
        if not is_same(judge_rows(world, picked), judge_columns(world, picked))
    ]
    name = "false alarms: windows on which the verdict by bins made once is not that of the public function"
    return figure(name, len(differing), "0", not differing, windows=CHECKED * len(SIZES))


def _run_rival(world: World, rival: Evidently, size: int) -> tuple[int, int]:
    any_column, dataset = 0, 0
    for picked in islice(draw_windows(world, size, 0), THEIRS[size]):
        found = rival.find_drifted(_pick(world.pool, picked))
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
