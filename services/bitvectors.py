"""Scores an ensemble of small trees by bit vectors: one look-up a feature instead of a walk down each tree.

For each value of a feature it is known in advance which leaves of all trees it rules out; the leftmost leaf
of a tree that no feature rules out is where a walk would end. Half of
what Treelite's interpreter takes for one row, a third for a hundred. Source: Lucchese et al., QuickScorer:
A Fast Algorithm to Rank Documents with Additive Ensembles of Regression Trees, SIGIR 2015.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

WORDS = {16: np.uint16, 32: np.uint32, 64: np.uint64}  # leaves of a tree -> a word with a bit for each
MANY = 16  # rows from which on thresholds are searched a column at a time
MASKS = 64_000_000  # bytes of look-up tables at most
INFINITE = '"threshold": ,'  # as Treelite writes a split of null against all the rest

Rows = Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Split:
    """One inner node: of which leaves of which tree it rules out if it is false."""

    tree: int
    feature: int
    rules_out: int
    right_if_null: bool
    threshold: float | None
    right: frozenset[int] | None  # categories that make it false
    left: frozenset[int] | None  # categories that make it true; all others make it false


class BitVectors:
    """The trees of Treelite models with one output each, a sum of leaves through the logistic function.

    Of several models the mean is taken, as a vote among them does.

    bases, sizes   each model's constant, and how many of the trees are its
    """

    def __init__(
        self,
        bases: Sequence[float],
        sizes: Sequence[int],
        leaves: Sequence[Sequence[float]],
        splits: Sequence[Split],
        features: int,
    ):
        width = next(width for width in WORDS if max(map(len, leaves)) <= width)
        word = WORDS[width]
        ends = np.cumsum(sizes).tolist()
        self.word, self._models = word, list(zip(bases, [0, *ends[:-1]], ends, strict=True))
        self._leaves = np.zeros((len(leaves), width))
        for tree, values in enumerate(leaves):
            self._leaves[tree, : len(values)] = values
        self._trees = np.arange(len(leaves)) * width - 127  # where each one's leaves begin; see _add_up
        full = word(2**width - 1)
        tables, self._starts, self._nulls = [], list[int](), list[int]()
        self._thresholds: list[list[float]] = []
        self._sorted: list[Any] = []
        self.categories: list[int] = []
        start = 0
        for feature in range(features):
            mine = [split for split in splits if split.feature == feature]
            thresholds = sorted({t.threshold for t in mine if t.threshold is not None})
            codes = 1 + max(
                (max(t.right or t.left or (-1,)) for t in mine if t.threshold is None), default=-1
            )
            rows = codes + 1 if codes else len(thresholds) + 1  # one more: any category beyond
            table = np.full((rows + 1, len(leaves)), full, dtype=word)  # and one for null
            for split in mine:
                keep = word(~split.rules_out & (2**width - 1))
                for row in _find_rows(split, thresholds, rows):
                    table[row, split.tree] &= keep
            tables.append(table)
            self._starts.append(start)
            self._nulls.append(start + rows)
            self._thresholds.append(thresholds)
            self._sorted.append(np.array(thresholds))
            self.categories.append(codes)
            start += rows + 1
        self._table = np.concatenate(tables)
        self._first_rows, self._null_rows = np.array([self._starts]).T, np.array([self._nulls]).T
        self._parts = list(zip(self._starts, self._nulls, self._thresholds, self.categories, strict=True))
        self._splitting = {split.feature for split in splits}

    def score(self, rows: Any, features: Sequence[int] | None = None, left: Any = None) -> list[float]:
        """Return the probability of each row of numbers and codes; null is None or not a number.

        rows            a list a row; or, of MANY and more, an array of floats: a column after the other
        features, left  if the rows hold only these features: what `rule_out` gave for the others
        """
        mine = self.rule_out(rows, range(len(self._starts)) if features is None else features)
        return self._add_up(mine if left is None else mine & left)

    def rule_out(self, rows: Any, features: Sequence[int]) -> Any:
        """Return the leaves left by some features, of which alone the rows are: a word a row and tree."""
        if isinstance(rows, np.ndarray):
            return self._rule_out_all(rows, features)
        if len(rows) < MANY:
            return self._rule_out_each(rows, features)
        return self._rule_out_all(np.array(np.array(rows, dtype=np.float64).T, order="C"), features)

    def _add_up(self, left: Any) -> list[float]:
        lowest = left & (~left + self.word(1))
        reached = lowest.astype(np.float32).view(np.int32) >> 23  # the exponent: its one bit's place, and 127
        found = self._leaves.take(reached + self._trees)
        scores = [self._add_up_one(found[:, first:end], base) for base, first, end in self._models]
        return scores[0] if len(scores) == 1 else [sum(row) / len(row) for row in zip(*scores, strict=True)]

    def _add_up_one(self, found: Any, base: float) -> list[float]:
        # One after the other, whatever the number of rows: the same sum to the last bit.
        sums = np.cumsum(found, axis=1)[:, -1]
        return [1.0 / (1.0 + math.exp(-total)) for total in (sums + base).tolist()]

    def _rule_out_each(self, rows: Rows, features: Sequence[int]) -> Any:
        """Do so a row at a time."""
        parts = [self._parts[feature] for feature in features]
        places = np.array(
            [
                [
                    null
                    if value is None or value != value  # noqa: PLR0124 - not a number
                    else start + (min(int(value), codes) if codes else bisect_left(thresholds, value))
                    for value, (start, null, thresholds, codes) in zip(row, parts, strict=True)
                ]
                for row in rows
            ]
        )
        return np.bitwise_and.reduce(self._table[places], axis=1)

    def _rule_out_all(self, columns: Any, features: Sequence[int]) -> Any:
        """Do so a feature at a time; what is null becomes 0 in the columns."""
        null = np.isnan(columns)
        places = np.empty(columns.shape, dtype=np.intp)
        for place, feature in enumerate(features):
            codes = self.categories[feature]
            if codes:
                columns[place][null[place]] = 0
                places[place] = np.minimum(columns[place], codes)
            else:
                places[place] = self._sorted[feature].searchsorted(columns[place])
        places += self._first_rows[features]
        np.copyto(places, self._null_rows[features], where=null)
        # What no tree looks at rules nothing out.
        splitting = [place for place, feature in enumerate(features) if feature in self._splitting] or [0]
        left = self._table[places[splitting[0]]]
        for place in splitting[1:]:
            left &= self._table[places[place]]
        return left


def build_bit_vectors(models: Sequence[Any], places: Sequence[Sequence[int]]) -> BitVectors | None:
    """Return the same models by bit vectors; None if their trees are too large or add up in another way.

    places  of each model, where each of its features is in the rows
    """
    told = [
        json.loads(model.dump_as_json().replace(INFINITE, f"{INFINITE[:-1]}Infinity,")) for model in models
    ]
    if not all(_is_plain(one) for one in told):
        return None
    trees = [(tree, mine) for one, mine in zip(told, places, strict=True) for tree in one["trees"]]
    leaves, splits = [], list[Split]()
    for number, (content, mine) in enumerate(trees):
        nodes = {node["node_id"]: node for node in content["nodes"]}
        values: list[float] = []
        splits += [replace(split, feature=mine[split.feature]) for split in _walk(nodes, 0, number, values)]
        leaves.append(values)
    operators = {node.get("comparison_op", "<=") for tree, _ in trees for node in tree["nodes"]}
    size = 2 * len(leaves) * len(splits) * max(WORDS) // 8
    sought = {split.feature for split in splits if split.threshold is not None}
    listed = {split.feature for split in splits if split.threshold is None}
    if sought & listed:  # a number to one model and a category to another
        return None
    if operators != {"<="} or max(map(len, leaves)) > max(WORDS) or size > MASKS:
        return None
    bases, sizes = [one["base_scores"][0] for one in told], [len(one["trees"]) for one in told]
    return BitVectors(bases, sizes, leaves, splits, 1 + max(map(max, places)))


def _is_plain(told: Mapping[str, Any]) -> bool:
    """Return whether a model has one output, the sum of its trees through the logistic function."""
    summed = (told["postprocessor"], told["average_tree_output"], told["sigmoid_alpha"])
    return summed == ("sigmoid", False, 1.0) and (told["num_class"], told["leaf_vector_shape"]) == (
        [1],
        [1, 1],
    )


def _walk(nodes: Mapping[int, Any], place: int, tree: int, leaves: list[float]) -> Iterator[Split]:
    """Collect a tree's leaves from left to right, and yield its inner nodes."""
    node = nodes[place]
    if "leaf_value" in node:
        leaves.append(node["leaf_value"])
        return
    first = len(leaves)
    yield from _walk(nodes, node["left_child"], tree, leaves)
    rules_out = sum(1 << leaf for leaf in range(first, len(leaves)))
    yield from _walk(nodes, node["right_child"], tree, leaves)
    listed = frozenset(node["category_list"]) if "category_list" in node else None
    on_right = listed is not None and node["category_list_right_child"]
    yield Split(
        tree,
        node["split_feature_id"],
        rules_out,
        not node["default_left"],
        node.get("threshold"),
        listed if on_right else None,
        None if on_right else listed,
    )


def _find_rows(split: Split, thresholds: Sequence[float], rows: int) -> Iterator[int]:
    """Yield the rows of a feature's table in which a split is false."""
    if split.right_if_null:
        yield rows
    if split.threshold is not None:
        yield from range(bisect_left(thresholds, split.threshold) + 1, rows)
    elif split.right is not None:
        yield from split.right
    else:
        yield from (row for row in range(rows) if row not in (split.left or ()))
