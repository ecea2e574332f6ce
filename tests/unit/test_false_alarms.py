"""The proof of false alarms: what it counts on, on made-up rows."""

from itertools import islice

import numpy as np
import pytest

from feature_repo.problem import PROBLEM
from flows.policy.drift import DriftColumn
from tests.bench.bench_monitoring import World
from tests.proofs.false_alarms import (
    WINDOWS,
    bound_above,
    draw_windows,
    is_same,
    judge_columns,
    judge_rows,
    run_windows,
)

COLUMNS = (DriftColumn("x", "number", 0.7), DriftColumn("place", "category", 0.3))
ROWS = 4_000


def draw(rng, shift=0.0):
    """Columns of a reference or a pool; the calendar's are numbers with few values."""
    x = rng.normal(shift, 1, ROWS)
    score = 1 / (1 + np.exp(1 - x))
    return {
        "x": np.where(rng.random(ROWS) < 0.1, np.nan, x),
        "place": rng.choice(np.array(["EWR", "JFK", None], dtype=object), ROWS),
        **{name: rng.integers(0, 5, ROWS).astype(float) for name in PROBLEM.calendar},
        "score": score,
        PROBLEM.target: (rng.random(ROWS) < score).astype(float),
    }


@pytest.fixture(scope="module")
def worlds():
    """One whose pool is like the reference, one whose pool moved."""
    rng = np.random.default_rng(7)
    reference = draw(rng)
    return World(COLUMNS, reference, draw(rng)), World(COLUMNS, reference, draw(rng, shift=1.0))


@pytest.mark.parametrize("size", [100, 1_500])
def test_bins_made_once_give_what_the_public_function_gives_to_the_last_bit(worlds, size):
    """The same window gives the same figures both ways; one row in another bin, and it does not."""
    for world in worlds:
        picked = next(draw_windows(world, size, 0))
        whole = judge_columns(world, picked)
        assert is_same(judge_rows(world, picked), whole)
        codes = world.encoded[0]
        picked[0] = np.flatnonzero(codes[:, 0] != codes[picked[0], 0])[0]
        assert not is_same(judge_rows(world, picked), whole)


def test_what_moved_is_counted_and_what_did_not_is_not(worlds):
    """Two windows in a row are a retrain, so one less than there are windows; rows of one kind raise none."""
    still, moved = (run_windows(world, 400, 0, 20) for world in worlds)
    assert still[:2] == (0, 0)
    assert moved[:2] == (20, 19)
    assert {"inputs", "predictions", "drift"} <= set(moved[2])


def test_the_windows_are_the_same_whoever_draws_them_and_others_in_each_part(worlds):
    """Evidently gets the first of ours; no window is judged twice."""
    first, again = (np.stack(list(islice(draw_windows(worlds[0], 50, 0), 3))) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.stack(list(islice(draw_windows(worlds[0], 50, 1), 3))))


def test_the_count_of_windows_can_show_one_in_a_thousand():
    """With none among as many the exact bound is below it; with a hundred fewer it would not be."""
    assert bound_above(0, WINDOWS) < 0.001 < bound_above(0, WINDOWS - 100)
    assert bound_above(3, WINDOWS) > 0.001
