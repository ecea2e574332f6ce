"""Scores without a DataFrame: an estimator's trees, read by Treelite, from a plain row of numbers.

Made in this process from an estimator that was loaded as data; nothing compiled comes out of a registry.
Whoever makes one compares it with the estimator. A family that is not known here is answered by scikit-learn.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from feature_repo.freshness import Memo
from services.bitvectors import MANY, build_bit_vectors
from services.remembered import Remembered

Rows = Sequence[Mapping[str, Any]]
# Of these, scikit-learn compares inputs rounded to 32 bits.
ROUNDED = ("RandomForestClassifier", "ExtraTreesClassifier", "GradientBoostingClassifier")
EXACT = ("HistGradientBoostingClassifier",)
MEAN = "VotingClassifier"  # the mean of the probabilities of ensembles
FITTED = "FrozenEstimator"  # an estimator that was fitted before


class CompiledTrees:
    """Tree ensembles behind an encoder of categories, or on numbers alone. Binary classification.

    The probability is the mean of those of the ensembles, each of which takes some of the columns.
    """

    def __init__(self, ensembles: Sequence["Ensemble"], *, rounded: bool, kept: Collection[str] = ()) -> None:
        import treelite

        self.family = f"treelite {treelite.__version__}"
        columns = [*dict.fromkeys(column for one in ensembles for column in one.columns)]
        place = {column: i for i, column in enumerate(columns)}
        self._models = [treelite.sklearn.import_model(one.trees) for one in ensembles]
        self._places = [[place[column] for column in one.columns] for one in ensembles]
        self._predict: Callable[..., Any] = treelite.gtil.predict
        self._bits = build_bit_vectors(self._models, self._places)
        self._rounded = rounded
        self._all = _Encoder(columns, range(len(columns)))
        self._kept = _Encoder(columns, [i for i, column in enumerate(columns) if column.name in kept])
        self._rest = _Encoder(columns, [i for i, column in enumerate(columns) if column.name not in kept])
        self._remembered = Remembered[bytes]()
        self._remembers = self._bits and not rounded and self._kept.places and self._rest.places

    def score(self, rows: Rows, memos: Sequence[Memo | None] = ()) -> list[float]:
        """Return the probability of the second class for each row of named inputs.

        memos  what stands for each row's columns of `kept`, if they come from elsewhere than the rest and
               more than once: what they make is remembered, as long as they are there
        """
        if self._remembers and any(memo is not None for memo in memos):
            assert self._bits
            recalled = b"".join([self._recall(*one) for one in zip(rows, memos, strict=True)])
            left = np.frombuffer(recalled, self._bits.word).reshape(len(rows), -1)
            many = len(rows) >= MANY
            rest = self._rest.to_columns(rows) if many else [self._rest(row) for row in rows]
            return self._bits.score(rest, self._rest.places, left)
        encoded = [self._all(row) for row in rows]
        if self._bits and not self._rounded:
            return self._bits.score(encoded)
        matrix = np.array(encoded, dtype=np.float64)
        if self._rounded:
            matrix = matrix.astype(np.float32).astype(np.float64)
            if self._bits:
                return self._bits.score(matrix.tolist())
        scores = [
            self._predict(model, np.ascontiguousarray(matrix[:, places]), nthread=1)
            for model, places in zip(self._models, self._places, strict=True)
        ]
        means = np.mean([one.reshape(len(rows), -1)[:, -1] for one in scores], axis=0)
        probabilities: list[float] = means.tolist()
        return probabilities

    def _recall(self, row: Mapping[str, Any], memo: Any) -> bytes:
        left = self._remembered.get(memo)  # nothing is remembered of no memo
        if left is None:
            assert self._bits
            found: bytes = self._bits.rule_out([self._kept(row)], self._kept.places)[0].tobytes()
            left = found if memo is None else self._remembered.keep(memo, found)
        return left


@dataclass(frozen=True)
class Column:
    """One column as the trees take it: a number as it is, or one of some categories by its code."""

    name: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Ensemble:
    """A fitted ensemble of trees, and what it takes, in order."""

    trees: Any
    columns: Sequence[Column]


class _Encoder:
    """Takes some of the columns out of a row, as the trees take them."""

    def __init__(self, columns: Sequence[Column], places: Sequence[int]) -> None:
        self.places = list(places)
        taken = [columns[place] for place in places]
        self._codes = [
            (place, {category: float(code) for code, category in enumerate(column.categories)})
            for place, column in enumerate(taken)
            if column.categories is not None
        ]
        self._names = names = [column.name for column in taken]
        self._pick = itemgetter(*names) if len(names) > 1 else None

    def to_columns(self, rows: Rows) -> Any:
        """Return many rows' numbers and codes as floats, a column after the other."""
        columns: list[list[Any]] = [[row[name] for row in rows] for name in self._names]
        for place, codes in self._codes:
            columns[place] = [codes.get(value, math.nan) for value in columns[place]]
        return np.array(columns, dtype=np.float64)

    def __call__(self, row: Mapping[str, Any]) -> list[Any]:
        values = list(self._pick(row)) if self._pick else [row[name] for name in self._names]
        for place, codes in self._codes:
            # Unseen and missing are one to the encoder, and to the trees a branch of their own.
            values[place] = codes.get(values[place], math.nan)
        return values


def compile_estimator(
    estimator: Any, names: Sequence[str], kept: Collection[str] = ()
) -> CompiledTrees | None:
    """Return a way to score that gives what `estimator.predict_proba` gives, or None for another family.

    names  the columns of the DataFrame that the estimator was fitted on, in order
    kept   those of them whose values stay the same over many rows: what they make is remembered
    """
    ensembles = _list_ensembles(estimator, [Column(name) for name in names])
    kinds = {type(one.trees).__name__ for one in ensembles}
    if len(kinds) != 1 or not kinds < {*ROUNDED, *EXACT}:
        return None
    if any(len(one.columns) != one.trees.n_features_in_ or len(one.trees.classes_) != 2 for one in ensembles):
        return None
    with warnings.catch_warnings():  # Treelite turns the categories to integers, null among them
        warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
        return CompiledTrees(ensembles, rounded=kinds < {*ROUNDED}, kept=kept)


def _list_ensembles(estimator: Any, columns: Sequence[Column]) -> list[Ensemble]:
    """Return the ensembles whose probabilities are averaged; none if more is done than that."""
    if type(estimator).__name__ == FITTED:
        return _list_ensembles(estimator.estimator, columns)
    if hasattr(estimator, "steps"):
        *before, (_, last) = estimator.steps
        taken = _pass_on([step for _, step in before], columns)
        return [] if taken is None else _list_ensembles(last, taken)
    if type(estimator).__name__ != MEAN:
        return [Ensemble(estimator, columns)]
    if estimator.voting != "soft" or estimator.weights is not None:
        return []
    members = [_list_ensembles(one, columns) for one in estimator.estimators_]
    # A mean of means is no plain mean.
    return [one for [one] in members] if all(len(found) == 1 for found in members) else []


def _pass_on(steps: Sequence[Any], columns: Sequence[Column]) -> list[Column] | None:
    """Return what comes out of the steps before the trees; None if they do more than encode and pass on."""
    if not steps:
        return [*columns]
    if len(steps) > 1 or type(steps[0]).__name__ != "ColumnTransformer":
        return None
    if any(column.categories is not None for column in columns):
        return None
    names = [column.name for column in columns]
    passed: list[Column] = []
    for _, transformer, chosen in steps[0].transformers_:
        taken = _name(chosen, names)
        if not set(taken) <= set(names):
            return None
        if _passes(transformer):
            passed += [Column(name) for name in taken]
        elif _encodes(transformer):
            passed += [
                Column(name, tuple(known)) for name, known in zip(taken, transformer.categories_, strict=True)
            ]
        elif transformer != "drop":
            return None
    return passed


def _name(chosen: Any, names: Sequence[str]) -> list[str]:
    if isinstance(chosen, slice):
        return list(names[chosen])
    picked = list(chosen)
    if picked and isinstance(picked[0], bool | np.bool_):
        return [name for name, taken in zip(names, picked, strict=True) if taken]
    return [one if isinstance(one, str) else names[one] for one in picked]


def _passes(transformer: Any) -> bool:
    if isinstance(transformer, str):
        return transformer == "passthrough"
    return type(transformer).__name__ == "FunctionTransformer" and transformer.func is None


def _encodes(transformer: Any) -> bool:
    """Return whether it is an encoder to which unseen and missing are both null."""
    return (
        type(transformer).__name__ == "OrdinalEncoder"
        and transformer.handle_unknown == "use_encoded_value"
        and math.isnan(transformer.unknown_value)
        and math.isnan(transformer.encoded_missing_value)
        and transformer.min_frequency is None
        and transformer.max_categories is None
    )
