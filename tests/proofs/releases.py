"""1,000 releases of a model no better, looked at every day; and how soon one that is better is found so.

A release is 60 days beside the champion, then 14 days of watch: promoted at any look, or rolled back at any
look, is wrong. Days are Gaussian of one size and of sizes that differ as 1 to 20, of a share that grows, and
real: two models of the bundled flights, each fitted on a random half of the same two months, and each day's
difference of their log loss over the ten months after; drawn with replacement by blocks of consecutive
days, which keep what a day has of those before; thinned at random. Blocks are as long as the cube root of
the days (Hall, Horowitz and Jing, Biometrika 82, 1995). Of longer ones there are too few to draw from; what
they come to is in infra/decisions/0020: at fortnights it is 5% and more.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import nct
from scipy.stats import t as student

from flows.policy.gate import log_loss
from flows.policy.sequential import SequentialPolicy, reach, trace_days
from flows.policy.watch import QUALITY

Floats = NDArray[np.float64]
Figure = dict[str, Any]
RELEASES, BESIDE, WATCH, RUNS, LONGEST = 1_000, SequentialPolicy().max_days, 14, 2_000, 450
BLOCK = 7  # consecutive days drawn together: the cube root of how many there are, and a week
EFFECTS = (0.25, 0.35, 0.5, 0.7, 1.0)  # in standard deviations of a day
POWERS, ASKED = (0.8, 0.9, 0.95), 0.9


@dataclass
class Days:
    """Each release's days: differences of log loss, and rows; (releases, days)."""

    differences: Floats
    sizes: Floats


def measure() -> Iterator[Figure]:
    """Yield the figures of equal models, then those of better ones."""
    rng = np.random.default_rng(20130101)
    pool = read_real_days()
    for name, days in draw_equal(rng, pool).items():
        beside = Days(days.differences[:, :BESIDE], days.sizes[:, :BESIDE])
        watched = Days(days.differences[:, BESIDE:], days.sizes[:, BESIDE:])
        promoted = find_ends(beside, SequentialPolicy(), better=True) <= BESIDE
        rolled_back = find_ends(watched, QUALITY, better=False) <= WATCH
        share = float((promoted | rolled_back).mean())
        told = {"either": share, "promoted": float(promoted.mean()), "rolled back": float(rolled_back.mean())}
        title = f"A/A: share of {RELEASES:,} releases promoted or rolled back wrongly, {name}"
        yield {"name": title, "value": told, "bar": "<= 0.05", "ok": share <= 0.05}
    yield from measure_better(rng)


def draw_equal(rng: np.random.Generator, pool: Days) -> dict[str, Days]:
    """Return releases of equal models, by the kind of their days."""
    shape = (RELEASES, BESIDE + WATCH)
    normal, like = rng.normal(0, 1, shape), np.ones(shape)
    unlike, grown = np.exp(rng.normal(0, 0.8, shape)), np.exp(np.linspace(0, 3, shape[1])) * like
    drawn = draw_blocks(rng, pool.sizes.shape[1], shape)
    real, rows = pool.differences[0][drawn], pool.sizes[0][drawn]
    thinned = rows * rng.uniform(0.05, 1, shape)
    return {
        "Gaussian days of one size": Days(normal, like),
        "Gaussian days of unlike size": Days(normal, unlike),
        "Gaussian days, small ones noisier": Days(normal / np.sqrt(unlike), unlike),
        "Gaussian days of growing size": Days(normal, grown),
        "real days": Days(real, rows),
        "real days, thinned at random": Days(real, thinned),
    }


def draw_blocks(rng: np.random.Generator, days: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return places of days by blocks of BLOCK that follow each other; after the last day comes the first."""
    starts = rng.integers(0, days, (shape[0], -(-shape[1] // BLOCK)))
    places = (starts[:, :, None] + np.arange(BLOCK)) % days
    return places.reshape(shape[0], -1)[:, : shape[1]]


def find_ends(days: Days, policy: SequentialPolicy, *, better: bool) -> Floats:
    """Return the day at which each release is found surely better, or surely worse; infinite if never."""
    mean, error, effective = trace_days(days.differences, days.sizes)
    width = reach(effective, error, policy)
    found = (mean + width < 0) if better else (mean - width > 0)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)


def measure_better(rng: np.random.Generator) -> Iterator[Figure]:
    """Yield, by size of a true gain and by power, mean days to a decision beside those of a fixed test."""
    policy = SequentialPolicy()
    print("gain (sd of a day)  power  fixed test  mean days, sequential  given up after", file=sys.stderr)
    for effect in EFFECTS:
        drawn = Days(rng.normal(-effect, 1, (RUNS, LONGEST)), np.ones((RUNS, LONGEST)))
        ends, told = find_ends(drawn, policy, better=True), {}
        for power in POWERS:
            fixed = max(policy.min_days, size_fixed_test(effect, power, (1 - policy.level) / 2))
            # Given up once it has that power: like is compared with like.
            limit = float(np.quantile(ends, power, method="higher"))
            mean = float(np.minimum(ends, limit).mean())
            told[power] = (fixed, round(mean, 1), int(limit))
            print(f"{effect:18} {power:6} {fixed:11} {mean:22.1f} {limit:15.0f}", file=sys.stderr)
        fixed, mean, _ = told[ASKED]
        value = {
            f"power {power}": dict(zip(("fixed", "mean", "limit"), told[power], strict=True))
            for power in told
        }
        title = f"A/B: mean days until a gain of {effect} sd of a day is decided, power {ASKED}"
        yield {"name": title, "value": value, "bar": f"< {fixed}", "ok": mean < fixed}


def size_fixed_test(effect: float, power: float, alpha: float) -> int:
    """Return the days of a one-sided t test of that level and power, looked at once."""
    days = 2
    while nct.sf(student.isf(alpha, days - 1), days - 1, effect * np.sqrt(days)) < power:
        days += 1
    return days


def read_real_days() -> Days:
    """Return, by real day, the difference of log loss of two equally good models, centred, and its rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = _read_flights()
    names = ["carrier", "origin", "dest", "hour", "distance"]
    inputs = rows.select(
        pl.col(n).rank("dense").clip(0, 200) if rows[n].dtype == pl.String else n for n in names
    )
    x, y = inputs.to_numpy().astype(float), rows["late"].to_numpy().astype(float)
    early = rows["month"].to_numpy() <= 2
    half = np.random.default_rng(1).random(len(rows)) < 0.5
    losses = []
    for part in (half, ~half):
        model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(
            x[early & part], y[early & part]
        )
        losses.append(log_loss(y[~early], model.predict_proba(x[~early])[:, 1]))
    days = rows.filter(~pl.Series(early))["day"].to_numpy()
    _, block = np.unique(days, return_inverse=True)
    sizes = np.bincount(block).astype(float)
    difference = np.bincount(block, losses[0] - losses[1]) / sizes
    return Days((difference - np.average(difference, weights=sizes))[None], sizes[None])


def _read_flights() -> pl.DataFrame:
    from feature_repo.files import read_file
    from feature_repo.source import COLUMNS, _bundled

    flights = read_file(_bundled("flights"), COLUMNS["flights"]).frame.filter(
        pl.col("arr_delay").is_not_null()
    )
    day = pl.date("year", "month", "day").cast(pl.Int32)
    return flights.with_columns(late=pl.col("arr_delay") >= 15, day=day)
