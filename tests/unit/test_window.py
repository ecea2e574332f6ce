"""Another window than all of the past wins on evidence only."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from feature_repo.errors import NotEnoughData
from flows.policy.window import EXPANDING, WINDOWS, Tried, Window, WindowPolicy, choose, compare
from flows.training_set import to_matrix
from flows.training_window import (
    apply_window,
    fit_by_evidence,
    fit_staggered,
    fit_weighted,
    tabulate,
    try_windows,
)
from tests import toy

NAMES = [window.name for window in WINDOWS]
RECENT = Window("last 30 days", days=30)
FADING = Window("half-life of 10 days", half_life=10)
POLICY = WindowPolicy(windows=(EXPANDING, RECENT, FADING), min_rows=500)


def make_scores(gain: float, seed: int = 0) -> tuple[Any, dict[str, Any], Any]:
    """Return outcomes, the scores of two windows, and days; the second sees `gain` more of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=4_000)
    outcomes = (rng.random(4_000) < 1 / (1 + np.exp(-truth))).astype(float)
    # Each is off by noise of its own: of two that see alike, neither is the other.
    noise = rng.normal(size=(2, 4_000)) * 0.2
    seen = {
        name: 1 / (1 + np.exp(-(share * truth + off)))
        for name, share, off in zip(NAMES[:2], (0.4, 0.4 + gain), noise, strict=True)
    }
    return outcomes, seen, np.arange(4_000) % 28


def decide(gain: float, seed: int = 0) -> Any:
    outcomes, seen, days = make_scores(gain, seed)
    tried = compare(outcomes, seen, days, dict.fromkeys(seen, 10_000))
    return choose(tried)


def test_a_window_that_is_surely_better_is_chosen() -> None:
    """The challenger wins if its whole interval lies below zero, and the reason says so."""
    choice = decide(0.4)
    assert choice.window.name == NAMES[1]
    assert choice.improved
    assert "surely better" in choice.reasons[0]


@pytest.mark.parametrize("gain", [0.0, -0.3])
def test_without_evidence_all_of_the_past_is_learned_from(gain: float) -> None:
    """An equal or a worse challenger changes nothing, and it is said that none improved."""
    choice = decide(gain)
    assert choice.window == EXPANDING
    assert not choice.improved
    assert "none of 1 challengers is surely better" in choice.reasons[0]


def test_an_equal_window_seldom_wins() -> None:
    """Of 100 draws without any gain, the share chosen is what the level allows."""
    assert sum(decide(0.0, seed).improved for seed in range(100)) <= 8


def test_of_several_better_windows_the_best_is_chosen() -> None:
    """The one whose loss lies lowest wins."""
    tried = [
        Tried(EXPANDING.name, 9, 0.5),
        Tried(NAMES[1], 9, 0.49, -0.01, -0.02, -0.001),
        Tried(NAMES[2], 9, 0.48, -0.02, -0.04, -0.001),
        Tried(NAMES[3], 9, 0.40, -0.10, -0.30, 0.1),
    ]
    assert choose(tried).window.name == NAMES[2]


def test_more_challengers_need_wider_intervals() -> None:
    """The error is shared: the same challenger's interval is wider beside two others."""
    outcomes, seen, days = make_scores(0.1)
    alone = compare(outcomes, seen, days, dict.fromkeys(seen, 9))[1]
    more = {**seen, NAMES[2]: seen[NAMES[1]], NAMES[3]: seen[NAMES[1]]}
    beside = compare(outcomes, more, days, dict.fromkeys(more, 9))[1]
    assert (beside.low, beside.high) != (alone.low, alone.high)
    assert beside.low < alone.low
    assert beside.high > alone.high


class Remembering:
    """A classifier that answers the late rate by shop, and keeps what it was given."""

    def fit(self, rows: Any, outcomes: Any, sample_weight: Any = None) -> "Remembering":
        weights = np.ones(len(outcomes)) if sample_weight is None else sample_weight
        self.rows, self.weights = len(rows), weights
        self.rates = {
            shop: np.average(outcomes[mask], weights=weights[mask])
            for shop in np.unique(rows["shop"])
            for mask in [(rows["shop"] == shop).to_numpy()]
        }
        return self

    def predict_proba(self, rows: Any) -> Any:
        late = rows["shop"].map(self.rates).to_numpy(dtype=float)
        return np.column_stack([1 - late, late])


def make_rows(days: int, turned: int | None) -> pl.DataFrame:
    """Return orders of `days` days; from day `turned` on the shops have changed places."""
    rng = np.random.default_rng(1)
    n = days * 100
    day = np.arange(n) // 100
    shop = rng.integers(0, 2, n)
    often = shop == 1 if turned is None else (shop == 1) != (day >= turned)
    return pl.DataFrame(
        {
            "order_id": [f"o{i}" for i in range(n)],
            "decided_at": [
                toy.START + timedelta(days=int(d), minutes=int(i % 100)) for i, d in enumerate(day)
            ],
            "shop": np.array(["north", "south"])[shop],
            "amount": 1.0,
            "hour": 1.0,
            "shop_returned_1d": 0.5,
            "returned": (rng.random(n) < np.where(often, 0.6, 0.1)).astype(int),
        },
        schema_overrides={"decided_at": toy.INSTANT},
    )


def test_what_has_turned_is_learned_from_the_newest() -> None:
    """Where the past misleads, a window that leaves it out wins, and the estimator is fitted on it alone."""
    rows = make_rows(120, turned=60)
    result = fit_by_evidence(lambda problem: Remembering(), rows, toy.TOY, POLICY)
    assert result.choice.window in (RECENT, FADING)
    assert result.estimator.rates["north"] > 0.4
    assert result.estimator.rows == len(result.learned)
    assert [one["name"] for one in tabulate(result.tried, result.choice.window.name) if one["chosen"]] == [
        result.choice.window.name
    ]


def test_what_has_not_turned_is_learned_from_all() -> None:
    """Where nothing changed, all rows are fitted and every challenger is told with its interval."""
    rows = make_rows(120, turned=None)
    result = fit_by_evidence(lambda problem: Remembering(), rows, toy.TOY, POLICY)
    assert result.choice.window == EXPANDING
    assert result.estimator.rows == len(rows)
    assert all(one.low <= one.difference <= one.high for one in result.tried if one.difference is not None)
    assert sum(one.difference is not None for one in result.tried) == 2


def test_too_short_a_past_is_not_compared() -> None:
    """With nothing older than the judged days all rows are learned from, and each window says why."""
    result = fit_by_evidence(lambda problem: Remembering(), make_rows(20, None), toy.TOY, POLICY)
    assert result.choice.window == EXPANDING
    assert all("0 rows to learn from" in one.reason for one in result.tried)


class WithoutWeights(Remembering):
    """A classifier that takes no weights."""

    def fit(self, rows: Any, outcomes: Any) -> "Remembering":  # type: ignore[override]
        return super().fit(rows, outcomes)


def test_an_estimator_without_weights_is_not_asked_to_weigh() -> None:
    """The fading window is left out with its reason; the others are compared."""
    result = fit_by_evidence(lambda problem: WithoutWeights(), make_rows(120, None), toy.TOY, POLICY)
    (fading,) = (one for one in result.tried if one.name == FADING.name)
    assert fading.reason == "the estimator takes no weights"
    assert fading.difference is None


def test_a_window_without_any_value_of_a_number_is_not_tried() -> None:
    """It is named; the windows that hold one are compared."""
    rows = make_rows(120, None)
    recent = pl.col("decided_at") > rows["decided_at"].max() - timedelta(days=60)  # type: ignore[operator]
    gone = rows.with_columns(amount=pl.when(~recent).then("amount"))
    result = fit_by_evidence(lambda problem: Remembering(), gone, toy.TOY, POLICY)
    told = {one.name: one.reason for one in result.tried}
    assert told[RECENT.name] == "no value of amount"
    assert "no value" not in told[EXPANDING.name]


def test_a_window_that_has_lost_a_number_since_is_not_tried() -> None:
    """It held values where it was to be compared, and holds none where it would be learned from."""
    rows = make_rows(120, turned=None)
    lost = pl.col("decided_at") > rows["decided_at"].max() - timedelta(days=31)  # type: ignore[operator]
    gone = rows.with_columns(amount=pl.when(~lost).then("amount"))
    told = {one.name: one.reason for one in try_windows(lambda problem: Remembering(), gone, toy.TOY, POLICY)}
    assert told[RECENT.name] == "no value of amount"


def test_a_number_without_any_value_is_named() -> None:
    """Null or not a number: scikit-learn's trees would fail on it, and say nothing of which."""
    for nothing in (None, float("nan")):
        rows = make_rows(120, None).with_columns(amount=pl.lit(nothing, pl.Float64))
        with pytest.raises(NotEnoughData, match="no value of amount in 12000 rows"):
            fit_by_evidence(lambda problem: Remembering(), rows, toy.TOY, POLICY)


def test_many_rows_are_thinned_to_learn_from_and_all_new_ones_judged() -> None:
    """Every n-th of the older ones; each of the newest days keeps all of its rows."""
    judged: list[int] = []

    class Counting(Remembering):
        def predict_proba(self, rows: Any) -> Any:
            judged.append(len(rows))
            return super().predict_proba(rows)

    policy = replace(POLICY, max_rows=3_000)
    told = try_windows(lambda problem: Counting(), make_rows(120, None), toy.TOY, policy)
    assert {one.rows for one in told if one.name == EXPANDING.name} == {2_300}
    assert {*judged} == {2_800}


def test_each_member_of_a_vote_learns_with_the_weights() -> None:
    """As if fitted alone with them; without them it answers otherwise."""
    rows = make_rows(30, turned=15)
    _, weights = apply_window(FADING, rows, toy.TOY)
    assert weights is not None
    matrix, outcomes = to_matrix(rows, toy.TOY), rows["returned"].to_numpy()
    weighted = fit_weighted(toy.build_estimator(toy.TOY), rows, toy.TOY, weights).predict_proba(matrix)
    alone = [
        one.fit(matrix, outcomes, trees__sample_weight=weights).predict_proba(matrix)
        for _, one in toy.build_estimator(toy.TOY).estimators
    ]
    assert weighted == pytest.approx(np.mean(alone, axis=0))
    plain = fit_weighted(toy.build_estimator(toy.TOY), rows, toy.TOY, None).predict_proba(matrix)
    assert abs(weighted - plain).max() > 0.1


@pytest.mark.parametrize("window", [EXPANDING, FADING])
def test_a_vote_hears_its_members_of_four_weeks_before(window: Window) -> None:
    """The mean of two fits, each with its own rows' weights; services compile it as they do any vote."""
    from services.compiled import compile_estimator

    rows = make_rows(80, turned=60)
    _, weights = apply_window(window, rows, toy.TOY)
    older = (rows["decided_at"] <= rows["decided_at"].max() - timedelta(days=28)).to_numpy()
    vote = fit_staggered(toy.build_estimator, rows, toy.TOY, weights)
    assert [*vote.named_estimators_] == ["deep", "flat", "deep_before", "flat_before"]
    parts = [
        (rows, weights),
        (rows.filter(older), None if weights is None else weights[older]),
    ]
    matrix = to_matrix(rows, toy.TOY)
    alone = [
        fit_weighted(toy.build_estimator(toy.TOY), part, toy.TOY, counts).predict_proba(matrix)[:, 1]
        for part, counts in parts
    ]
    assert abs(alone[0] - alone[1]).max() > 0.1
    assert vote.predict_proba(matrix)[:, 1] == pytest.approx(np.mean(alone, axis=0))
    compiled = compile_estimator(vote, toy.TOY.feature_names)
    assert compiled is not None
    few = rows.select(toy.TOY.feature_names).head(50).to_dicts()
    assert compiled.score(few) == pytest.approx(np.mean(alone, axis=0)[:50], abs=1e-12)


def test_members_of_before_that_knew_too_little_have_no_say() -> None:
    """Of sixty days they would know half; any other estimator than a soft vote is fitted once."""
    rows = make_rows(60, None)
    assert [*fit_staggered(toy.build_estimator, rows, toy.TOY, None).named_estimators_] == ["deep", "flat"]
    hard = fit_staggered(
        lambda problem: toy.build_estimator(problem).set_params(voting="hard"),
        make_rows(80, None),
        toy.TOY,
        None,
    )
    assert [*hard.named_estimators_] == ["deep", "flat"]
    assert fit_staggered(lambda problem: Remembering(), make_rows(80, None), toy.TOY, None).rows == 8_000


def test_a_half_life_halves_what_a_row_counts() -> None:
    """The newest row counts one, a row as old as the half-life a half."""
    rows = make_rows(30, None)
    _, weights = apply_window(FADING, rows, toy.TOY)
    assert weights is not None
    assert weights[-1] == 1
    assert weights[-1 - 10 * 100] == pytest.approx(0.5)
