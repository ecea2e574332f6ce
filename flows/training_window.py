"""Learning from the past that served best: windows are tried before one is learned from.

The evidence comes from the newest of the rows given, so that rows held out for the gate decide nothing
here. The decision itself is pure, in policy/window.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from feature_repo.contract import Problem
from feature_repo.errors import NotEnoughData
from flows.policy.gate import Floats
from flows.policy.window import EXPANDING, Tried, Window, WindowChoice, WindowPolicy, choose, compare
from flows.training_set import to_matrix

DAY = 86_400  # seconds
STAGGER = timedelta(days=28)  # between what a vote's members learned from
EARLIER = 0.55  # of the rows: members that learned from fewer would be others, not the same ones earlier


@dataclass(frozen=True)
class Fitted:
    """An estimator, the rows that it learned from, why those, and every window that was tried."""

    estimator: Any
    learned: pl.DataFrame
    choice: WindowChoice
    tried: tuple[Tried, ...]


def fit_by_evidence(
    build_estimator: Callable[[Problem], Any],
    rows: pl.DataFrame,
    problem: Problem,
    policy: WindowPolicy = WindowPolicy(),
) -> Fitted:
    """Compare windows on the newest of labelled rows, then fit on all rows of the window that won.

    Raises NotEnoughData if one of the numbers has no value in any row.
    """
    empty = find_empty(rows, problem)
    if empty:
        raise NotEnoughData(
            f"training of {problem.name}",
            got=f"no value of {', '.join(empty)} in {len(rows)} rows",
            expected="a value of every number that the model takes",
            next_step="Mend its source and backfill, or leave it out of the feature service.",
        )
    tried = try_windows(build_estimator, rows, problem, policy)
    choice = choose(tried, policy)
    learned, weights = apply_window(choice.window, rows, problem)
    return Fitted(fit_staggered(build_estimator, learned, problem, weights), learned, choice, tried)


def try_windows(
    build_estimator: Callable[[Problem], Any], rows: pl.DataFrame, problem: Problem, policy: WindowPolicy
) -> tuple[Tried, ...]:
    """Return what each window comes to on the newest days of labelled rows, learned from what is older."""
    decided = pl.col(problem.decided_at)
    newest = decided > decided.max() - timedelta(days=policy.judged_days)
    older, judged = rows.filter(~newest), rows.filter(newest)
    known = older.sort(problem.decided_at).gather_every(max(1, -(-len(older) // policy.max_rows)))
    days = judged[problem.decided_at].dt.convert_time_zone(problem.time_zone).dt.date().cast(pl.Int64)
    lacking = _find_lacking(known, judged, days.n_unique(), problem, policy)
    if lacking:
        return tuple(Tried(window.name, len(known), reason=lacking) for window in policy.windows)
    skipped, scores, learned_from = [], {}, {}
    for window in policy.windows:
        learned, weights = apply_window(window, known, problem)
        reason = _find_reason_to_skip(window, learned, known, build_estimator(problem), policy)
        # If it wins, it is learned from once more, from where it ends now.
        reason = (
            reason
            or _tell_empty(learned, problem)
            or _tell_empty(apply_window(window, rows, problem)[0], problem)
        )
        if reason:
            skipped.append(Tried(window.name, len(learned), reason=reason))
            continue
        estimator = fit_weighted(build_estimator(problem), learned, problem, weights)
        scores[window.name] = estimator.predict_proba(to_matrix(judged, problem))[:, 1]
        learned_from[window.name] = len(learned)
    outcomes = judged[problem.target].cast(pl.Float64).to_numpy()
    return (*compare(outcomes, scores, days.to_numpy(), learned_from, policy), *skipped)


def apply_window(window: Window, rows: pl.DataFrame, problem: Problem) -> tuple[pl.DataFrame, Floats | None]:
    """Return the rows that a window learns from, and what each counts; None: all alike."""
    decided = pl.col(problem.decided_at)
    if window.days is not None:
        rows = rows.filter(decided > decided.max() - timedelta(days=window.days))
    if window.half_life is None:
        return rows, None
    age = rows.select((decided.max() - decided).dt.total_seconds() / DAY).to_series().to_numpy()
    return rows, np.exp2(-age / window.half_life)


def fit_staggered(
    build_estimator: Callable[[Problem], Any], rows: pl.DataFrame, problem: Problem, weights: Floats | None
) -> Any:
    """Fit an estimator on labelled rows. In a soft vote the members of four weeks before have a say too.

    What one fit takes from its newest weeks by chance, the other does not know: their mean is less restless
    from retrain to retrain. Any other estimator is fitted once.
    """
    from sklearn.ensemble import VotingClassifier
    from sklearn.frozen import FrozenEstimator

    now = fit_weighted(build_estimator(problem), rows, problem, weights)
    decided = rows[problem.decided_at]
    earlier = (decided <= decided.max() - STAGGER).to_numpy()  # type: ignore[operator]
    older = rows.filter(earlier)
    plain = isinstance(now, VotingClassifier) and now.voting == "soft" and now.weights is None
    if not plain or len(older) < EARLIER * len(rows) or find_empty(older, problem):
        return now
    if older[problem.target].n_unique() < 2:
        return now
    parts = None if weights is None else weights[earlier]
    before = fit_weighted(build_estimator(problem), older, problem, parts)
    members = [*now.named_estimators_.items()]
    members += [(f"{name}_before", one) for name, one in before.named_estimators_.items()]
    vote = build_estimator(problem).set_params(estimators=[(n, FrozenEstimator(one)) for n, one in members])
    return vote.fit(to_matrix(rows, problem), rows[problem.target].to_numpy())


def fit_weighted(estimator: Any, rows: pl.DataFrame, problem: Problem, weights: Floats | None) -> Any:
    """Fit an estimator on labelled rows, each of which counts as much as its weight, and return it."""
    return _fit(estimator, to_matrix(rows, problem), rows[problem.target].to_numpy(), weights)


def _fit(estimator: Any, matrix: Any, outcomes: Any, weights: Floats | None) -> Any:
    from sklearn.ensemble import VotingClassifier
    from sklearn.frozen import FrozenEstimator

    if weights is None:
        return estimator.fit(matrix, outcomes)
    if isinstance(estimator, VotingClassifier):
        # A vote hands weights on to no pipeline; so its members are fitted first.
        fitted = [(name, _fit(one, matrix, outcomes, weights)) for name, one in estimator.estimators]
        estimator.set_params(estimators=[(name, FrozenEstimator(one)) for name, one in fitted])
        return estimator.fit(matrix, outcomes)
    return estimator.fit(matrix, outcomes, **{_name_weights(estimator): weights})


def find_empty(rows: pl.DataFrame, problem: Problem) -> list[str]:
    """Return the numbers of which no row has a value: scikit-learn's trees cannot be fitted on one such."""
    names = [f.name for f in problem.features if f.kind == "number"]
    return [name for name in names if rows[name].cast(pl.Float64).fill_nan(None).null_count() == len(rows)]


def tabulate(tried: Sequence[Tried], chosen: str) -> list[dict[str, Any]]:
    """Return one row a window that was tried, the one that was learned from marked."""
    return [{**asdict(one), "chosen": one.name == chosen} for one in tried]


def _find_lacking(
    known: pl.DataFrame, judged: pl.DataFrame, days: int, problem: Problem, policy: WindowPolicy
) -> str:
    """Return why nothing can be compared, or nothing."""
    if len(known) < policy.min_rows or days < policy.min_days:
        expected = f"{policy.min_rows} rows and {policy.min_days} days or more"
        return f"{len(known)} rows to learn from and {days} days to judge on, expected {expected}"
    if known[problem.target].n_unique() < 2 or judged[problem.target].n_unique() < 2:
        return "one outcome only"
    return _tell_empty(known, problem)


def _tell_empty(rows: pl.DataFrame, problem: Problem) -> str:
    empty = find_empty(rows, problem)
    return f"no value of {', '.join(empty)}" if empty else ""


def _find_reason_to_skip(
    window: Window, learned: pl.DataFrame, known: pl.DataFrame, estimator: Any, policy: WindowPolicy
) -> str:
    """Return why a window is not tried, or nothing."""
    if window == EXPANDING:
        return ""
    if window.half_life is None and len(learned) == len(known):
        return "reaches back to the first row, as expanding does"
    if len(learned) < policy.min_rows:
        return f"{len(learned)} rows to learn from, expected {policy.min_rows} or more"
    if window.half_life is not None and not _takes_weights(estimator):
        return "the estimator takes no weights"
    return ""


def _takes_weights(estimator: Any) -> bool:
    from sklearn.ensemble import VotingClassifier

    if isinstance(estimator, VotingClassifier):
        return all(_takes_weights(one) for _, one in estimator.estimators)
    return bool(_name_weights(estimator))


def _name_weights(estimator: Any) -> str:
    """Return by which name an estimator takes the weights of rows; nothing if it takes none."""
    from sklearn.utils.validation import has_fit_parameter

    if hasattr(estimator, "steps"):
        name, last = estimator.steps[-1]
        return f"{name}__sample_weight" if has_fit_parameter(last, "sample_weight") else ""
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else ""
