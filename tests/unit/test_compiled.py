"""Compiled trees give what scikit-learn gives, for every input; what cannot be compiled says so."""

import numpy as np
import pandas as pd
import pytest

from feature_repo.freshness import Memo
from services.compiled import compile_estimator
from tests.packages import draw_rows, fit_estimator
from tests.toy import TOY

NUMBERS = ["a", "b", "c"]


def to_rows(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def test_the_problems_own_pipeline_gives_the_same_scores() -> None:
    """Over nulls, unseen categories and numbers far out, at once and row by row, to the last bit of both."""
    inputs = draw_rows(TOY, 3_000)
    estimator = fit_estimator(TOY, inputs)
    compiled = compile_estimator(estimator, TOY.feature_names)
    assert compiled is not None
    odd = inputs.copy()
    odd.loc[::7, "shop"] = "moon"
    odd.loc[::11, "shop"] = None
    odd.loc[::5, [f.name for f in TOY.features if f.kind == "number"]] = np.nan
    odd.loc[::13, [f.name for f in TOY.features if f.kind == "number"]] = 1e12
    expected = estimator.predict_proba(odd)[:, 1]
    rows = to_rows(odd)
    scores = compiled.score(rows)
    assert np.abs(expected - scores).max() <= 1e-12
    assert [compiled.score([row])[0] for row in rows[:200]] == scores[:200]
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(
    "kind", ["RandomForestClassifier", "ExtraTreesClassifier", "GradientBoostingClassifier"]
)
def test_other_ensembles_of_trees_are_compiled(kind: str) -> None:
    """On numbers alone; these compare numbers rounded to 32 bits, and so does what is compiled."""
    from sklearn import ensemble

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(2_000, 3)), columns=NUMBERS)
    late = (frame["a"] + rng.normal(size=2_000) > 0).astype(int)
    estimator = getattr(ensemble, kind)(n_estimators=20, max_depth=4, random_state=0).fit(frame, late)
    compiled = compile_estimator(estimator, NUMBERS)
    assert compiled is not None
    # At each threshold exactly, where a rounding that differs would show.
    edges = frame.head(500).astype(np.float32).astype(np.float64) + 1e-12
    for asked in (frame, edges):
        assert np.abs(estimator.predict_proba(asked)[:, 1] - compiled.score(to_rows(asked))).max() <= 1e-6


def test_what_is_not_known_is_left_to_scikit_learn() -> None:
    """Another family, another preparation, or more than two classes."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 3)), columns=NUMBERS)
    late = (frame["a"] > 0).astype(int)
    trees = HistGradientBoostingClassifier(max_iter=5)
    for estimator, target in (
        (LogisticRegression(), late),
        (make_pipeline(StandardScaler(), trees), late),
        (trees, late + (frame["b"] > 0)),
    ):
        assert compile_estimator(estimator.fit(frame, target), NUMBERS) is None


@pytest.mark.parametrize("leaves", [4, 16, 17, 60, 100])
def test_trees_of_any_size_give_the_same_at_every_threshold(leaves: int) -> None:
    """Small ones by bit vectors, large ones by the interpreter; around each threshold, null, infinite."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(leaves)
    frame = pd.DataFrame(rng.normal(size=(4_000, 3)).round(2), columns=NUMBERS)
    frame["c"] = rng.integers(0, 40, 4_000).astype(float)
    late = (frame["a"] * frame["b"] + (frame["c"] % 3) + rng.normal(size=4_000) > 1).astype(int)
    frame.loc[::9, "b"] = np.nan
    frame.loc[::17, "c"] = np.nan
    estimator = HistGradientBoostingClassifier(
        max_iter=20, max_leaf_nodes=leaves, categorical_features=[2], min_samples_leaf=5, random_state=0
    ).fit(frame, late)
    compiled = compile_estimator(estimator, NUMBERS)
    assert compiled is not None
    assert (compiled._bits is not None) == (leaves <= 64)
    thresholds = {
        float(node["num_threshold"])
        for [tree] in estimator._predictors
        for node in tree.nodes
        if not node["is_leaf"] and not node["is_categorical"]
    }
    edges = [e for t in thresholds for e in (np.nextafter(t, -9), t, np.nextafter(t, 9))]
    edges = [*edges, np.nan, np.inf, -np.inf]
    asked = pd.DataFrame([(e, edges[-1 - i], float(i % 40)) for i, e in enumerate(edges)], columns=NUMBERS)
    asked.loc[::5, "c"] = np.nan
    expected = estimator.predict_proba(asked)[:, 1]
    rows = to_rows(asked)
    scores = compiled.score(rows)
    assert np.abs(expected - scores).max() <= 1e-12
    assert [compiled.score([row])[0] for row in rows] == scores


@pytest.mark.parametrize("rows", [1, 40])
def test_a_split_of_null_against_all_the_rest_is_compiled(rows: int) -> None:
    """Its threshold is infinite: a feature that is null or one value gives it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    chance = np.random.default_rng(5)
    frame = pd.DataFrame({"a": np.where(chance.random(2_000) < 0.5, np.nan, 1.0), "b": chance.random(2_000)})
    late = frame["a"].isna() ^ (chance.random(2_000) < 0.1)
    model = HistGradientBoostingClassifier(max_iter=5).fit(frame, late)
    assert any(np.isinf(tree[0].nodes["num_threshold"]).any() for tree in model._predictors)
    compiled = compile_estimator(model, list(frame))
    asked = pd.concat([frame, pd.DataFrame({"a": [np.inf, -np.inf, 5.0], "b": 0.5})]).tail(rows)
    assert compiled is not None
    expected = model.predict_proba(asked)[:, 1]
    assert compiled.score(to_rows(asked)) == pytest.approx(expected, abs=1e-9)


def test_what_a_keys_columns_make_is_remembered_and_the_scores_stay_the_same() -> None:
    """To the last bit, one by one and at once, the first time and again, with nulls and unseen ones."""
    inputs = draw_rows(TOY, 3_000)
    estimator, kept = fit_estimator(TOY, inputs), ("shop", "shop_returned_1d")
    compiled = compile_estimator(estimator, TOY.feature_names, kept)
    assert compiled is not None
    shops = [("north", 3.0), ("east", None), ("moon", 1e12), (None, 0.0)]
    rows = [
        {**row, **dict(zip(kept, shops[i % 4], strict=True))} for i, row in enumerate(to_rows(inputs)[:200])
    ]
    memos = [Memo() for _ in shops]
    asked = [memos[i % 4] for i in range(len(rows))]
    plain = compiled.score(rows)
    assert [compiled.score([row], [memo])[0] for row, memo in zip(rows, asked, strict=True)] == plain
    assert len(compiled._remembered) == len(memos)
    assert compiled.score(rows, asked) == plain
    # What was remembered is what is used.
    swapped = compiled.score(rows, [memos[(i + 1) % 4] for i in range(len(rows))])
    assert swapped != plain
    assert compiled.score(rows, [None, *asked[1:]]) == plain


def test_trees_on_nothing_but_a_keys_columns_remember_nothing() -> None:
    """There is nothing left to look at for each row."""
    inputs = draw_rows(TOY, 500)
    compiled = compile_estimator(fit_estimator(TOY, inputs), TOY.feature_names, TOY.feature_names)
    assert compiled is not None
    memo = Memo()
    assert compiled.score(to_rows(inputs)[:20], [memo] * 20) == compiled.score(to_rows(inputs)[:20])
    assert not compiled._remembered


@pytest.mark.parametrize("rows", [1, 40])
def test_a_vote_among_ensembles_gives_the_mean_of_their_probabilities(rows: int) -> None:
    """One row or many, known categories and unseen ones, behind one encoder."""
    from sklearn.base import clone
    from sklearn.ensemble import VotingClassifier
    from sklearn.pipeline import Pipeline

    inputs = draw_rows(TOY, 1_000)
    columns, trees = (step for _, step in fit_estimator(TOY, inputs).estimators_[1].steps)
    shallow = clone(trees).set_params(max_leaf_nodes=4, max_iter=7)
    vote = VotingClassifier([("deep", clone(trees)), ("shallow", shallow)], voting="soft")
    target = np.arange(len(inputs)) % 3 == 0
    voted = Pipeline([("columns", clone(columns)), ("trees", vote)]).fit(inputs, target)
    compiled = compile_estimator(voted, TOY.feature_names)
    assert compiled is not None
    expected = voted.predict_proba(inputs.tail(rows))[:, 1]
    assert compiled.score(to_rows(inputs.tail(rows))) == pytest.approx(expected, abs=1e-12)
    hard = clone(voted).set_params(trees__voting="hard").fit(inputs, target)
    assert compile_estimator(hard, TOY.feature_names) is None


@pytest.mark.parametrize("leaves", [15, 100])
def test_each_member_of_a_vote_may_take_columns_of_its_own(leaves: int) -> None:
    """In an order of its own; small trees by bit vectors, large ones by the interpreter."""
    from sklearn.base import clone
    from sklearn.ensemble import VotingClassifier
    from sklearn.frozen import FrozenEstimator

    inputs = draw_rows(TOY, 3_000)
    whole = fit_estimator(TOY, inputs).estimators_[1]
    kinds, (name, passed, numbers) = whole["columns"].transformers
    other = [(name, passed, numbers[:0:-1]), kinds]
    part = clone(whole).set_params(
        columns__transformers=other,
        trees__categorical_features=[len(numbers) - 1],
        trees__max_leaf_nodes=leaves,
        trees__min_samples_leaf=5,
    )
    late = inputs[numbers[1]].fillna(0).to_numpy() > np.random.default_rng(2).normal(3, 2, len(inputs))
    members = [("whole", clone(whole)), ("part", part)]
    vote = VotingClassifier(members, voting="soft").fit(inputs, late)
    frozen = [(name, FrozenEstimator(one)) for name, one in vote.named_estimators_.items()]
    odd = inputs.copy()
    odd.loc[::5, numbers] = np.nan
    odd.loc[::7, "shop"] = "moon"
    expected = vote.predict_proba(odd)[:, 1]
    assert np.ptp(expected) > 0.1
    for one in (vote, VotingClassifier(frozen, voting="soft").fit(inputs, late)):
        compiled = compile_estimator(one, TOY.feature_names, ("shop", numbers[2]))
        assert compiled is not None
        assert (compiled._bits is not None) == (leaves <= 64)
        scores = compiled.score(to_rows(odd))
        assert np.abs(expected - scores).max() <= 1e-12
        assert compiled.score(to_rows(odd)[:3]) == scores[:3]
        assert [compiled.score([row], [Memo()])[0] for row in to_rows(odd)[:50]] == scores[:50]


def test_a_number_to_one_member_and_a_category_to_another_is_scored_by_the_interpreter() -> None:
    """Their splits cannot share a look-up table."""
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier

    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"a": rng.integers(0, 20, 2_000).astype(float), "b": rng.normal(size=2_000)})
    late = (frame["a"] % 3 + frame["b"] + rng.normal(size=2_000)) > 1
    trees = HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5)
    other = HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5, categorical_features=[0])
    vote = VotingClassifier([("number", trees), ("category", other)], voting="soft").fit(frame, late)
    compiled = compile_estimator(vote, list(frame))
    assert compiled is not None
    assert compiled._bits is None
    assert compiled.score(to_rows(frame)) == pytest.approx(vote.predict_proba(frame)[:, 1], abs=1e-12)


def test_a_mean_of_means_is_left_to_scikit_learn() -> None:
    """A vote within a vote counts its members less."""
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier

    trees = HistGradientBoostingClassifier(max_iter=5)
    inner = VotingClassifier([("a", trees), ("b", trees)], voting="soft")
    vote = VotingClassifier([("a", trees), ("inner", inner)], voting="soft")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 3)), columns=NUMBERS)
    assert compile_estimator(vote.fit(frame, frame["a"] > 0), NUMBERS) is None
