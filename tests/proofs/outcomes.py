"""100,000 outcomes told in any order, in any batches, give the labels, fates and quality of those in order.

Through the real journal and the real lake. What comes out is held against a plain loop that follows the
rule of flows/outcomes.py word for word, and against what was made up: whatever clients say, with whatever
clock, what the source tells of was asked about before it happened or was not. So equal is not equally wrong.
"""

import dataclasses
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.contract import Period, RawTable
from feature_repo.lake import Lake, content_hash
from feature_repo.problem import PROBLEM
from flows.label import label_period, read_labels
from flows.outcomes import FATES, REACH
from flows.outcomes_kept import LABELS, TABLE, count_fates, read_kept
from flows.policy.quality import measure_quality
from services.journal import Journal, Outcome, Prediction, format_instant
from tests.bench.bench_monitoring import figure, show_table

INSTANT = pl.Datetime("us", "UTC")
START, DAYS = datetime(2013, 3, 1, tzinfo=UTC), 10
HORIZON = timedelta(days=2)
THINGS, BY_SOURCE, TOLD = 45_000, 15_000, 100_000
SHUFFLES, BATCHES = 3, 5
LEAST = 1_000  # of each fate, so that each is put to the test
LANDED = {"flight_id": pl.String, "late": pl.Float64, "status": pl.String, "known_at": INSTANT}
WHOLE = Period(START, START + timedelta(days=DAYS))
STRETCHES = [Period(START + timedelta(days=n), START + timedelta(days=n + 1)) for n in range(-1, DAYS + 6)]
PROBLEM_HERE = dataclasses.replace(
    PROBLEM,
    name="outcomes",
    horizon=HORIZON,
    start=START,
    raw=(RawTable("landings", LANDED, key=("flight_id",)),),
    build_outcomes=lambda raw: raw["landings"],
)


@dataclass(frozen=True)
class Told:
    """All that is ever told, oldest first."""

    predictions: list[Prediction]
    outcomes: list[Outcome]
    landed: pl.DataFrame


@dataclass(frozen=True)
class Result:
    """What was kept in the end."""

    hashes: tuple[str, str]
    fates: dict[str, int]
    quality: str
    kept: pl.DataFrame
    labels: pl.DataFrame


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    told = make_up(random.Random(0))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        first = deliver(told, Path(folder), in_order(told))
    seconds = [time.monotonic() - began]
    rows = [("in order", *(f"{first.fates[fate]:,}" for fate in FATES), first.quality)]
    same = 0
    for seed in range(SHUFFLES):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = deliver(told, Path(folder), in_any_order(told, random.Random(seed + 1)))
        seconds.append(time.monotonic() - began)
        same += (found.hashes, found.fates, found.quality) == (first.hashes, first.fates, first.quality)
        rows.append((f"shuffle {seed}", *(f"{found.fates[fate]:,}" for fate in FATES), found.quality))
    show_table(("outcomes told", *FATES, "quality"), rows)
    name = f"outcomes: {TOLD:,} told, shuffles with the labels, fates, counts and quality of those in order"
    yield figure(
        name, same, f"{SHUFFLES} of {SHUFFLES}", same == SHUFFLES, fates=first.fates, seconds=seconds
    )
    kept = sum(first.fates.values())
    name = "outcomes: kept with a fate, of those told by clients and the source"
    yield figure(name, kept, str(TOLD + BY_SOURCE), kept == TOLD + BY_SOURCE)
    least = min(first.fates.values())
    yield figure("outcomes: of the rarest fate", least, f">= {LEAST}", least >= LEAST)
    fates, labels = judge_plainly(told)
    wrong = sum(abs(fates[fate] - first.fates[fate]) for fate in FATES)
    mine = {r["entity"]: (r["prediction_id"], r["outcome"]) for r in first.labels.to_dicts()}
    wrong += sum(mine.get(thing) != label for thing, label in labels.items()) + len(
        mine.keys() - labels.keys()
    )
    name = "outcomes: fates and labels other than a plain loop over the rule gives"
    yield figure(name, wrong, "0", wrong == 0, labels=len(labels))
    right = label_truly(told)
    wrong = sum(mine.get(thing, ("", -1.0))[1] != late for thing, late in right.items())
    name = "outcomes: things of the source, asked about in time, without what truly came as their label"
    yield figure(name, wrong, "0", wrong == 0, things=len(right))


def make_up(rng: random.Random) -> Told:
    """Make up predictions and what is told of them: late, twice, otherwise, of nobody, by an early clock."""
    predictions, sure, landed = [], [], []
    for number in range(THINGS):
        asked = START + timedelta(seconds=rng.randrange(DAYS * 86_400 - 60))  # again within a minute
        score = rng.random()
        # One in forty is only asked about when it is all over.
        known = asked - timedelta(hours=1) if number % 40 == 0 else asked + _wait(rng)
        late = float(rng.random() < score)
        times = range(1 + (number % 10 == 0))
        predictions += [_predict(number, n, asked + timedelta(minutes=n), score) for n in times]
        sure.append((number, known, late))
        if number < BY_SOURCE:
            landed.append((f"thing{number}", late, "arrived", known))
    outcomes = [_tell(rng, number, known, late) for number, known, late in sure[BY_SOURCE // 2 :]]
    while len(outcomes) < TOLD:
        number, known, late = sure[rng.randrange(THINGS)]
        kind = rng.random()
        if kind < 0.05:  # by a clock that is up to 20 hours early
            early = known - rng.random() * timedelta(hours=20)
            outcomes.append(_tell(rng, number, early, rng.choice((late, 1 - late))))
        elif kind < 0.25:  # of a thing that nobody asked about
            outcomes.append(_tell(rng, THINGS + rng.randrange(THINGS), known, late))
        elif kind < 0.6:
            outcomes.append(_tell(rng, number, known + rng.random() * timedelta(hours=9), 1 - late))
        else:
            outcomes.append(_tell(rng, number, known + rng.random() * timedelta(hours=9), late))
    frame = pl.DataFrame(landed, schema=LANDED, orient="row")
    by_time = sorted(outcomes, key=lambda o: o.observed_at)
    return Told(sorted(predictions, key=lambda p: p.requested_at), by_time, frame)


def in_order(told: Told) -> Iterator[tuple[Sequence[Prediction], Sequence[Outcome], list[Period]]]:
    """Yield each day's predictions and outcomes, and the day to be labelled."""
    for day in STRETCHES:
        ends = format_instant(day.since), format_instant(day.until)
        asked = [p for p in told.predictions if ends[0] <= p.requested_at < ends[1]]
        yield asked, [o for o in told.outcomes if day.since <= o.observed_at < day.until], [day]


def in_any_order(
    told: Told, rng: random.Random
) -> Iterator[tuple[Sequence[Prediction], Sequence[Outcome], list[Period]]]:
    """Yield shuffled batches, and after each the days that are labelled: any, some twice; all in the end."""
    predictions, outcomes = rng.sample(told.predictions, len(told.predictions)), list(told.outcomes)
    rng.shuffle(outcomes)
    for batch in range(BATCHES):
        days = rng.sample(STRETCHES, 2)
        yield predictions[batch::BATCHES], outcomes[batch::BATCHES], [*days, days[0]]
    yield (), (), rng.sample(STRETCHES, len(STRETCHES))


def deliver(told: Told, folder: Path, batches: Iterator[tuple[Any, Any, list[Period]]]) -> Result:
    """Put the batches into a journal and label after each; return what is kept in the end."""
    lake = Lake(folder / "lake")
    stretch = Period(START - timedelta(days=1), STRETCHES[-1].until)
    lake.replace("landings", told.landed, stretch, by="known_at")
    with Journal(folder / "journal.db") as journal:
        for predictions, outcomes, days in batches:
            waiting = [journal.submit(predictions[i : i + 500]) for i in range(0, len(predictions), 500)]
            for one in waiting:
                one.result()
            for i in range(0, len(outcomes), 1_000):
                journal.submit_outcomes(outcomes[i : i + 1_000]).result()
            for day in days:
                label_period(lake, journal, PROBLEM_HERE, day)
    kept, labels = read_kept(lake), read_labels(lake, WHOLE, STRETCHES[-1].until)
    quality = measure_quality(labels["score"].to_numpy(), labels["outcome"].to_numpy())
    words = f"AUC {quality.auc.value:.6f}, skill {quality.skill.value:.6f}, {quality.rows:,} labels"
    hashes = content_hash(lake.read(TABLE)), content_hash(lake.read(LABELS))
    return Result(hashes, count_fates(kept), words, kept, labels)


def judge_plainly(told: Told) -> tuple[Counter[str], dict[str, tuple[str, float]]]:
    """Follow the rule with a loop over things; return how many met each fate, and each thing's label."""
    asked, owner = defaultdict(list), {}
    for p in told.predictions:
        asked[p.entity].append((datetime.fromisoformat(p.requested_at), p.received_at, p.prediction_id))
        owner[p.prediction_id] = p.entity
    things = defaultdict(list)
    for o in told.outcomes:
        thing = owner.get(o.prediction_id or "") or o.entity or f"prediction {o.prediction_id}"
        things[thing].append((o.observed_at, 0, o.outcome, o.prediction_id or ""))
    for row in told.landed.to_dicts():
        things[row["flight_id"]].append((row["known_at"], 1, row["late"], ""))
    fates: Counter[str] = Counter()
    labels = {}
    for thing, said in things.items():
        said.sort()
        by_source = [known for known, source, _, _ in said if source]
        first = by_source[0] if by_source else said[0][0]
        named = {m for _, _, _, m in said}
        near = [a for a in asked[thing] if a[0] >= said[0][0] - REACH * HORIZON or a[2] in named]
        timely = [a for a in near if a[0] <= first]
        held, place = _hold(said, max((a[0] for a in timely), default=said[0][0]))
        value, known, meant = held
        fates["duplicate"] += sum(v == value for i, (_, _, v, _) in enumerate(said) if i != place)
        fates["conflict"] += sum(v != value for _, _, v, _ in said)
        if not timely:
            fates["hindsight" if near else "orphan"] += 1
            continue
        newest = max(a[0] for a in timely)
        best = min((a[1], a[2]) for a in timely if a[0] == newest)[1]
        chosen = meant if meant in {a[2] for a in timely} else best
        asked_at = next(a[0] for a in timely if a[2] == chosen)
        fates["late" if known - asked_at > HORIZON else "accepted"] += 1
        if WHOLE.since <= asked_at < WHOLE.until:
            labels[thing] = (chosen, value)
    return fates, labels


def label_truly(told: Told) -> dict[str, float]:
    """Return what came, by thing, of those that the source tells of and that were asked about before."""
    first: dict[str, datetime] = {}
    for p in told.predictions:  # oldest first
        first.setdefault(p.entity, datetime.fromisoformat(p.requested_at))
    came = told.landed.select("flight_id", "known_at", "late").rows()
    return {thing: late for thing, known, late in came if first[thing] <= known}


def _hold(
    said: list[tuple[datetime, int, float, str]], since: datetime
) -> tuple[tuple[float, datetime, str], int]:
    """Return what holds of a thing since it could, and the place of the outcome that made it hold."""
    held: list[tuple[float, datetime, str, int]] = []
    official = False
    for place, (known, by_source, value, meant) in enumerate(said):
        official = official or bool(by_source)
        if known >= since and (by_source or not official):
            if held and held[-1][1] == known:
                held.pop()
            held.append((value, known, meant, place))
    # The last stretch of one value began where it last changed.
    last = len(held) - 1
    while last > 0 and held[last - 1][0] == held[last][0]:
        last -= 1
    value, known, meant, place = held[last]
    return (value, known, meant), place


def _wait(rng: random.Random) -> timedelta:
    return HORIZON * (1 + rng.random()) if rng.random() < 0.05 else timedelta(hours=2 + 8 * rng.random())


def _predict(number: int, again: int, asked: datetime, score: float) -> Prediction:
    at = format_instant(asked)
    identity = f"p{number}-{again}"
    return Prediction(identity, f"thing{number}", at, at, "1", "champion", "ok", score, "{}", "[]", "{}")


def _tell(rng: random.Random, number: int, known: datetime, late: float) -> Outcome:
    """Name the thing, the prediction, or both, as clients do."""
    kind = rng.randrange(3)
    entity = f"thing{number}" if kind != 1 else None
    return Outcome(entity, f"p{number}-0" if kind else None, late, "arrived", known)
