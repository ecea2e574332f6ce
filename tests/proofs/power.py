"""Detection of injected shifts: how often and after how many days, beside Evidently's default and a calendar.

A day is 900 flights drawn from July to December, half of which is the reference; a shift is put in from
the first day on (the seasonal one comes, goes, and is counted from its return). Ours is watched as the
monitor does: each day without labels, the day's realised quality when its labels are here, and weeks for
a retrain. Alarms are held against alarms: Evidently's verdict "dataset drift", its default, and "any column
drifted", less how often that is said of days on which nothing happened. Retrains are held against those of
a calendar, every 30 days, for which a shift waits 15.5 days on average.

Such days have no weather of their own, and neither has the reference. Days as they came have, and hide more:
the last figure is of these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np

from feature_repo.facts import HORIZON
from flows.policy.bins import Column
from flows.policy.estimate import estimate_auc
from flows.policy.quality import judge_quality
from flows.policy.signals import judge_estimate, judge_inputs, judge_predictions, list_alarms
from flows.policy.trigger import TriggerPolicy, WindowSigns, decide, name_breaches
from tests.bench.bench_monitoring import (
    DAY,
    MEASURED,
    SEED,
    Evidently,
    World,
    build_world,
    figure,
    pick_labelled,
    show_table,
)
from tests.bench.real_days import build_days, share_seen

DAYS, TRIALS, THEIRS = 30, 8, 4
IDLE = 200  # days without any shift
RETRAINS = ("many columns", "predictions", "concept, inputs unchanged")  # a new model is the cure of these
RIVAL_ROWS = 5_000
SIZES = ("small", "medium", "large")
CALENDAR = (DAYS + 1) / 2
WEEK = 7
Frame = dict[str, Column]
Rng = np.random.Generator
Seen = tuple[float, float]  # share of trials in which it was seen, and after how many days on average
START = datetime(2013, 1, 1, tzinfo=UTC)
RETURNS = 11  # the first day of the season's return


@dataclass(frozen=True)
class Shift:
    """A change of a day's rows; `sizes` in the shift's own unit, for small, medium and large."""

    name: str
    sizes: tuple[float, float, float]
    change: Callable[[World, Frame, float, Rng], Frame]
    over: int = 0  # days over which it grows, 0 for at once

    def apply(self, world: World, frame: Frame, size: float, day: int, rng: Rng) -> Frame:
        """Return the day's rows, changed as far as the shift is by then."""
        if self.change is turn_season and 5 < day < RETURNS:
            return frame
        grown = min(1.0, day / self.over) if self.over else 1.0
        return frame | self.change(world, frame, size * grown, rng)


def move_mean(*names: str) -> Callable[[World, Frame, float, Rng], Frame]:
    """Add `size` of the reference's standard deviations."""

    def change(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
        return {n: frame[n] + size * np.nanstd(world.reference[n]) for n in names or _list_numbers(world)}

    return change


def stretch(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Multiply the distance from the mean."""
    mean = np.nanmean(world.reference["temp"])
    return {"temp": mean + (frame["temp"] - mean) * size}


def mix_categories(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Give a share of the flights to one carrier."""
    return {"carrier": np.where(rng.random(DAY) < size, "UA", frame["carrier"]).astype(object)}


def lose_values(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Lose a share of a column's values."""
    return {"temp": np.where(rng.random(DAY) < size, np.nan, frame["temp"])}


def change_unit(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Tell the wind in another unit: miles an hour as knots, kilometres an hour, metres a second."""
    return {"wind_speed": frame["wind_speed"] * size}


def add_category(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Send a share of the flights where none went before."""
    return {"dest": np.where(rng.random(DAY) < size, "NEW", frame["dest"]).astype(object)}


def tilt_column(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Draw a share of one column's values from its upper quarter."""
    held = world.reference["airport_late_7d"]
    upper = held[held >= np.nanquantile(held, 0.75)]
    return {
        "airport_late_7d": np.where(rng.random(DAY) < size, rng.choice(upper, DAY), frame["airport_late_7d"])
    }


def move_scores(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Add to the score's logit; inputs stay."""
    score = np.clip(np.asarray(frame["score"], dtype=float), 1e-6, 1 - 1e-6)
    return {"score": 1 / (1 + np.exp(-(np.log(score / (1 - score)) + size)))}


def break_concept(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Draw a share of the outcomes at the base rate, whatever the score; inputs stay."""
    late = np.asarray(frame["late"], dtype=float)
    drawn = (rng.random(DAY) < np.nanmean(late)).astype(float)
    return {"late": np.where((rng.random(DAY) < size) & ~np.isnan(late), drawn, late)}


def turn_season(world: World, frame: Frame, size: float, rng: Rng) -> Frame:
    """Take a share of the flights' weather from the coldest tenth of the reference, row by row."""
    temp = np.asarray(world.reference["temp"], dtype=float)
    cold = np.flatnonzero(temp <= np.nanquantile(temp, 0.1))
    picked, taken = rng.choice(cold, DAY), rng.random(DAY) < size
    names = ("temp", "dewp", "humid", "pressure", "wind_speed", "visib")
    return {n: np.where(taken, world.reference[n][picked], frame[n]) for n in names}


SHIFTS = (
    Shift("mean of one column", (0.2, 0.5, 0.8), move_mean("dewp")),
    Shift("scale", (1.2, 1.7, 2.5), stretch),
    Shift("category mix", (0.05, 0.25, 0.5), mix_categories),
    Shift("nulls", (0.02, 0.1, 0.4), lose_values),
    Shift("unit change", (0.868976, 1.609344, 0.44704), change_unit),
    Shift("new category", (0.02, 0.1, 0.3), add_category),
    Shift("one column, its upper values", (0.1, 0.3, 0.6), tilt_column),
    Shift("many columns", (0.2, 0.5, 0.8), move_mean()),
    Shift("gradual over 14 days", (0.5, 1.0, 2.0), move_mean("temp"), over=14),
    Shift("predictions", (0.2, 0.5, 1.0), move_scores),
    Shift("concept, inputs unchanged", (0.3, 0.6, 1.0), break_concept),
    Shift("seasonal return", (0.1, 0.3, 0.8), turn_season),
)


def measure(
    period: tuple[datetime, datetime] = MEASURED, trials: int = TRIALS, theirs: int = THEIRS
) -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    world = build_world(*period)
    rival = Evidently(world.reference, world.columns, RIVAL_ROWS)
    rng = np.random.default_rng(SEED)
    idle = [rival.find_drifted(draw(world, rng)) for _ in range(20)]
    cried = sum(bool(found) for found in idle) / len(idle)
    spread = sum(len(found) >= 0.5 * len(rival.columns) for found in idle) / len(idle)
    told_ours = sum(bool(alarms(world, draw(world, rng))) for _ in range(IDLE)) / IDLE
    by_shift: dict[tuple[str, str], tuple[Seen, ...]] = {}
    for shift in SHIFTS:
        for name, size in zip(SIZES, shift.sizes, strict=True):
            ours = [watch(world, shift, size, np.random.default_rng(SEED + t)) for t in range(trials)]
            alarm, retrain = (_sum_up([days[i] for days in ours]) for i in (0, 1))
            any_column, dataset = watch_rival(world, rival, shift, size, theirs)
            by_shift[shift.name, name] = (alarm, retrain, any_column, dataset)
    head = ("shift", "size", "ours: alarm", "ours: retrain", "Evidently: any column", "dataset drift")
    rows = [(*key, *(_tell(*pair) for pair in seen)) for key, seen in by_shift.items()]
    show_table(head, rows)
    idle_days = {"ours": told_ours, "evidently_any_column": cried, "evidently_dataset_drift": spread}
    table = {
        "alarms_on_days_without_any_shift": idle_days,
        "days_a_trial": DAYS,
        "trials": trials,
        "table": [dict(zip(head, row, strict=True)) for row in rows],
    }
    yield from _compare(by_shift, idle_days, table)
    yield from watch_real_days(period)


def _compare(
    by_shift: dict[tuple[str, str], tuple[Seen, ...]], idle: dict[str, float], table: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    told = {key: seen for key, seen in by_shift.items() if key[1] != "small"}
    count = len(told)
    found = [key for key, (alarm, *_) in told.items() if alarm[0]]
    name = "power: large and medium shifts detected"
    yield figure(name, len(found), f"{count}", len(found) == count, **table)
    lost = [", ".join(key) for key, (alarm, _, _, rival) in told.items() if _is_worse(alarm, rival)]
    name = f"power, alarms: of {count} shifts those that Evidently's dataset drift sees more, or sooner"
    yield figure(name, len(lost), "0", not lost, cases=lost)
    # A rival that alarms on every day tells nothing of a shift: what counts is how much more often it does.
    lost = [
        ", ".join(key)
        for key, (alarm, _, rival, _) in told.items()
        if rival[0] - idle["evidently_any_column"] > alarm[0] - idle["ours"]
    ]
    name = (
        f"power, alarms less idle days' alarms: of {count} shifts those Evidently's any column tells better"
    )
    yield figure(name, len(lost), "0", not lost, cases=lost)
    lost = [", ".join(key) for key, (alarm, *_) in told.items() if _is_worse(alarm, (1.0, CALENDAR))]
    name = f"power: of {count} shifts those at which the calendar's retrain comes before our alarm"
    yield figure(name, len(lost), "0", not lost, cases=lost, calendar_days=CALENDAR)
    asked = {", ".join(key): seen[1] for key, seen in told.items() if key[0] in RETRAINS}
    late = [key for key, (rate, days) in asked.items() if rate < 1 or days > DAYS]
    name = "power, retrains: shifts that call for a new model and get no verdict within the calendar's period"
    days = {key: _tell(*seen) for key, seen in asked.items()}
    yield figure(name, len(late), "0", not late, cases=late, ours=days, calendar_mean_days=CALENDAR)


def watch_real_days(period: tuple[datetime, datetime]) -> Iterator[dict[str, Any]]:
    """Yield how often shifts are seen on a single day as it came: its own weather hides the smaller ones."""
    days, table = build_days(*period), {}
    idle = share_seen(days, lambda frame: frame)
    for shift in SHIFTS:
        if shift.change is break_concept:  # nothing without labels can see it
            continue
        for name, size in list(zip(SIZES, shift.sizes, strict=True))[1:]:
            rng, at = np.random.default_rng(SEED), max(shift.over, RETURNS)
            change = partial(shift.apply, days.world, size=size, day=at, rng=rng)
            table[f"{shift.name}, {name}"] = round(share_seen(days, change), 3)
    seen = sum(share >= 0.5 for share in table.values())
    name = f"power on real days: of {len(table)} shifts those seen on most single days, by inputs alone"
    told = {"days": len(days.held_out), "without_any_shift": idle, "share_of_days": table}
    yield figure(
        name, seen, "stated, no bar: what weather may explain waits for labels or a week", True, **told
    )


def _is_worse(ours: Seen, rival: Seen) -> bool:
    return ours[0] < rival[0] or bool(rival[0] and ours[1] > rival[1])


def draw(world: World, rng: Rng) -> Frame:
    """Return a day of the stationary period."""
    picked = rng.integers(0, world.size, DAY)
    return {name: values[picked] for name, values in world.pool.items()}


def watch(world: World, shift: Shift, size: float, rng: Rng) -> tuple[float, float]:
    """Return days until the first alarm and until a retrain verdict; infinity if there is none."""
    first = RETURNS if shift.change is turn_season else 1
    alarm, history, week, wait = float("inf"), list[WindowSigns](), list[Frame](), HORIZON.days
    for day in range(1, DAYS + 1):
        frame = shift.apply(world, draw(world, rng), size, day, rng)
        week.append(frame)
        if day >= first and alarm == float("inf"):
            if alarms(world, frame):
                alarm = day - first + 1
            elif _break_quality(world, frame):
                alarm = day - first + 1 + wait
        if day % WEEK:
            continue
        whole = {name: np.concatenate([part[name] for part in week]) for name in frame}
        week, drift = [], world.profile.judge(whole, WEEK)
        breaches = name_breaches(_break_quality(world, whole), drift.drifted_importance)
        alarm = min(alarm, day - first + 1 + wait) if breaches and day >= first else alarm
        history.append(WindowSigns(START + day * timedelta(days=1), breaches))
        if decide(history[-TriggerPolicy().of :]).retrain and day >= first:
            return alarm, day - first + 1 + wait
    return alarm, float("inf")


def alarms(world: World, frame: Frame) -> tuple[str, ...]:
    """Return what alarms on a day without its labels."""
    score = world.scores.judge_codes(*world.scores.encode(frame))
    signals = (
        judge_inputs(world.profile.judge_codes(*world.profile.encode(frame))),
        judge_predictions(score.columns[0] if score.enough else None),
        judge_estimate(estimate_auc(world.calibration, np.asarray(frame["score"], dtype=float))),
    )
    return list_alarms(signals)


def watch_rival(world: World, rival: Evidently, shift: Shift, size: float, windows: int) -> Any:
    """Return (rate, mean days) of any drifted column, and of dataset drift.

    A shift that grows is watched day by day. Of one that does not, days are alike: the share of days
    on which it is seen gives rate and delay within the 30 days.
    """
    rng, first = np.random.default_rng(SEED), RETURNS if shift.change is turn_season else 1
    days = range(1, shift.over + 1) if shift.over else [first] * windows
    found = [rival.find_drifted(shift.apply(world, draw(world, rng), size, day, rng)) for day in days]
    answers = []
    for need in (1, 0.5 * len(rival.columns)):
        seen = [len(names) >= need for names in found]
        if shift.over:
            answers.append((1.0, seen.index(True) + 1.0) if any(seen) else (0.0, float("inf")))
        else:
            answers.append(_expect_days(float(np.mean(seen))))
    return answers


def _expect_days(share: float) -> tuple[float, float]:
    if not share:
        return 0.0, float("inf")
    days = np.arange(1, DAYS + 1)
    chance = share * (1 - share) ** (days - 1)
    return float(chance.sum()), float((days * chance).sum() / chance.sum())


def _break_quality(world: World, frame: Frame) -> tuple[str, ...]:
    return judge_quality(pick_labelled(frame), world.held, arrived=1.0, mature=True).breaches


def _sum_up(days: list[float]) -> tuple[float, float]:
    seen = [day for day in days if day < float("inf")]
    return len(seen) / len(days), float(np.mean(seen)) if seen else float("inf")


def _tell(rate: float, days: float) -> str:
    return f"{rate:.0%}, {days:.1f} d" if rate else "0%"


def _list_numbers(world: World) -> list[str]:
    return [c.name for c in world.columns if c.kind == "number"]
