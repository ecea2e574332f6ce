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
MEAN = "VotingClassifier"  # the mean of the probabilities of ensembles on the same columns


class CompiledTrees:
    """Tree ensembles behind an encoder of categories, or on numbers alone. Binary classification.

    The probability is the mean of those of the ensembles.
    """

    def __init__(
        self, models: Sequence[Any], columns: Sequence["Column"], *, rounded: bool, kept: Collection[str] = ()
    ) -> None:
        import treelite

        self.family = f"treelite {treelite.__version__}"
        self._models = models
        self._predict: Callable[..., Any] = treelite.gtil.predict
        self._bits = build_bit_vectors(*models)
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
        scores = [self._predict(model, matrix, nthread=1) for model in self._models]
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
    """One column as the trees take it: a number as it is, or a category by its code."""

    name: str
    codes: Mapping[str, float] | None = None


class _Encoder:
    """Takes some of the columns out of a row, as the trees take them."""

    def __init__(self, columns: Sequence[Column], places: Sequence[int]) -> None:
        self.places = list(places)
        taken = [columns[place] for place in places]
        self._codes = [(place, c.codes) for place, c in enumerate(taken) if c.codes is not None]
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
    import treelite

    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    ensembles = _list_members(last)
    kinds = {type(trees).__name__ for trees in ensembles}
    if len(kinds) != 1 or not kinds < {*ROUNDED, *EXACT} or len(last.classes_) != 2:
        return None
    columns = _read_columns(estimator, names)
    if columns is None or any(len(columns) != trees.n_features_in_ for trees in ensembles):
        return None
    with warnings.catch_warnings():  # Treelite turns the categories to integers, null among them
        warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
        models = [treelite.sklearn.import_model(trees) for trees in ensembles]
    return CompiledTrees(models, columns, rounded=kinds < {*ROUNDED}, kept=kept)


def _list_members(estimator: Any) -> list[Any]:
    """Return the ensembles whose probabilities are averaged: the members of a vote, or the one itself."""
    if type(estimator).__name__ != MEAN:
        return [estimator]
    plain = estimator.voting == "soft" and estimator.weights is None
    return list(estimator.estimators_) if plain else []


def _read_columns(estimator: Any, names: Sequence[str]) -> list[Column] | None:
    """Return what comes out of the steps before the trees; None if they do more than encode and pass on."""
    steps = [step for _, step in estimator.steps[:-1]] if hasattr(estimator, "steps") else []
    if not steps:
        return [Column(name) for name in names]
    if len(steps) > 1 or type(steps[0]).__name__ != "ColumnTransformer":
        return None
    columns: list[Column] = []
    for _, transformer, chosen in steps[0].transformers_:
        taken = _name(chosen, names)
        if _passes(transformer):
            columns += [Column(name) for name in taken]
        elif _encodes(transformer):
            columns += [
                Column(name, {category: float(code) for code, category in enumerate(known)})
                for name, known in zip(taken, transformer.categories_, strict=True)
            ]
        elif transformer != "drop":
            return None
    return columns


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
