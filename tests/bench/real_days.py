"""Days and weeks as they came: every other week of a period is the reference, the weeks between are judged.

Both are of one season, so that what is found in them is what ordinary days differ by, or a false alarm.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from feature_repo.problem import PROBLEM
from flows.model import build_linear
from flows.policy.bins import Column
from flows.policy.estimate import estimate_auc
from flows.policy.signals import judge_estimate, judge_inputs, judge_predictions, list_alarms
from flows.train import predict
from tests.bench.bench_monitoring import DAY, SEED, TAUGHT, World, choose_columns, to_columns, to_matrix
from tests.bench.serving.material import prepare

WEEK = 7
Frame = dict[str, Column]


@dataclass(frozen=True)
class RealDays:
    """A world whose reference has its own days, and the days that are judged, oldest first."""

    world: World
    held_out: list[tuple[int, Frame]]  # number of the day, its rows

    def list_weeks(self) -> Iterator[Frame]:
        """Yield the whole weeks of the judged days."""
        weeks: dict[int, list[Frame]] = {}
        for number, frame in self.held_out:
            weeks.setdefault(number // WEEK, []).append(frame)
        for parts in weeks.values():
            if len(parts) == WEEK:
                yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@cache
def build_days(since: datetime, until: datetime) -> RealDays:
    """Take the period's flights by week; the model is of rows of the whole period, as in `build_world`."""
    within = pl.col(PROBLEM.decided_at).is_between(since, until, closed="left")
    rows = prepare().read_rows().filter(within).sample(fraction=1.0, shuffle=True, seed=SEED)
    taught, rest = rows[:TAUGHT].drop_nulls(PROBLEM.target), rows[TAUGHT:]
    estimator = build_linear(PROBLEM).fit(to_matrix(taught), taught[PROBLEM.target].to_numpy())
    rest = rest.with_columns(score=pl.Series(predict(estimator, rest, PROBLEM)))
    columns = choose_columns(estimator, taught[:2_000])
    frame, days = to_columns(rest, columns), _number_days(rest, since)
    is_held = days // WEEK % 2 == 0
    world = World(tuple(columns), _pick(frame, is_held), {}, days[is_held])
    numbers = [int(number) for number in np.unique(days[~is_held])]
    judged = [(number, _pick(frame, days == number)) for number in numbers]
    # The period's last hours are no day.
    return RealDays(world, [(n, day) for n, day in judged if len(day["score"]) > DAY / 2])


def find_alarms(world: World, frame: Frame, length: int = 1) -> tuple[tuple[str, ...], float]:
    """Return what alarms on a window without labels, and the share of importance that moved far."""
    drift = world.profile.judge_codes(*world.profile.encode(frame), length=length)
    score = world.scores.judge_codes(*world.scores.encode(frame), length=length)
    estimate = estimate_auc(world.calibration, np.asarray(frame["score"], dtype=float), days=length)
    signals = (
        judge_inputs(drift),
        judge_predictions(score.columns[0] if score.enough else None),
        judge_estimate(estimate),
    )
    return list_alarms(signals), drift.drifted_importance


def share_seen(days: RealDays, change: Callable[[Frame], Frame]) -> float:
    """Return the share of the judged days that alarm once changed; each has DAY rows, drawn from its own."""
    rng, seen = np.random.default_rng(SEED), 0
    for _, frame in days.held_out:
        picked = rng.integers(0, len(frame["score"]), DAY)
        seen += bool(find_alarms(days.world, change(_pick(frame, picked)))[0])
    return seen / len(days.held_out)


def _number_days(rows: pl.DataFrame, since: datetime) -> Any:
    # 5:00 UTC is midnight in New York in winter: days are cut where nobody flies.
    passed = (rows[PROBLEM.decided_at] - since - timedelta(hours=5)).dt.total_seconds() // 86_400
    return passed.to_numpy().astype(np.intp)


def _pick(frame: Frame, rows: Any) -> Frame:
    return {name: values[rows] for name, values in frame.items()}
