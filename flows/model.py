"""The estimator of the bundled problem. Particular to the problem: anything with `predict_proba` will do.

It gets a DataFrame of the problem's features in order: categories as text or None, numbers as floats
with NaN for missing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from feature_repo.contract import Problem

# What hardly varies within a season. Trees on it take the season that they saw for the reason.
SEASON = frozenset(
    ("carrier_late_28d", "airport_late_7d", "airport_late_28d", "route_late_28d", "temp", "dewp", "pressure")
)


def build_estimator(problem: Problem) -> Any:
    """Return an unfitted mean of two ensembles of trees: deep ones, blind to the season, and flat ones.

    Each takes categories and missing values as they are. Their mean ranks better than either, and in the
    weeks in which a season turns it is less wrong.
    """
    from sklearn.ensemble import VotingClassifier

    numbers = [f.name for f in problem.features if f.kind == "number"]
    lasting = [name for name in numbers if name not in SEASON]
    members = [
        ("deep", _build_trees(problem, lasting, max_leaf_nodes=15, max_iter=80, learning_rate=0.15)),
        ("flat", _build_trees(problem, numbers, max_leaf_nodes=6, max_iter=100, learning_rate=0.2)),
    ]
    return VotingClassifier(members, voting="soft")


def _build_trees(problem: Problem, numbers: Sequence[str], **size: float) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    categories = list(problem.categories)
    # A category unseen in training becomes missing, which the trees have a branch for.
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = ColumnTransformer(
        [("categories", encode, categories), ("numbers", "passthrough", list(numbers))]
    )
    trees = HistGradientBoostingClassifier(
        min_samples_leaf=200,
        l2_regularization=5.0,
        categorical_features=list(range(len(categories))),
        early_stopping=False,
        random_state=0,
        **size,
    )
    return Pipeline([("columns", columns), ("trees", trees)])


def build_linear(problem: Problem) -> Any:
    """Return the unfitted logistic regression that a first model must beat."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [f.name for f in problem.features if f.kind == "number"]
    columns = ColumnTransformer(
        [
            (
                "categories",
                OneHotEncoder(handle_unknown="ignore", min_frequency=50),
                list(problem.categories),
            ),
            ("numbers", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
        ]
    )
    return make_pipeline(columns, LogisticRegression(max_iter=300))
