"""The estimator of the bundled problem. Particular to the problem: anything with `predict_proba` will do.

It gets a DataFrame of the problem's features in order: categories as text or None, numbers as floats
with NaN for missing.
"""

from typing import Any

import numpy as np

from feature_repo.contract import Problem


def build_estimator(problem: Problem) -> Any:
    """Return an unfitted gradient-boosted classifier that takes categories and missing values as they are."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    categories = list(problem.categories)
    # A category unseen in training becomes missing, which the trees have a branch for.
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = ColumnTransformer([("categories", encode, categories)], remainder="passthrough")
    trees = HistGradientBoostingClassifier(
        learning_rate=0.06,
        max_iter=200,
        max_leaf_nodes=15,
        min_samples_leaf=200,
        l2_regularization=5.0,
        categorical_features=list(range(len(categories))),
        early_stopping=False,
        random_state=0,
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
