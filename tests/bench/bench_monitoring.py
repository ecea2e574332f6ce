"""What the proofs of monitoring work on: real flights, a model's scores, and Evidently's default tests."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any

import numpy as np
import polars as pl

from feature_repo.problem import PROBLEM
from flows.model import build_linear
from flows.policy.bins import Codes, Column
from flows.policy.drift import DriftColumn, Profile, fit_profile
from flows.policy.estimate import Calibration, fit_calibration
from flows.served import to_arrays
from flows.train import measure_importance, predict
from tests.bench.serving.material import prepare

TUNING = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC)
MEASURED = datetime(2013, 7, 1, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC)
LEFT_OUT = {  # like others that stay, so that 25 columns are watched
    *("precip_6h", "airport_delay_3h", "airport_late_3h", "pair_late_3h", "pair_flights_3h"),
    *("route_late_28d", "distance"),
}
TAUGHT = 20_000  # rows that the model learns from: enough to rank by, and quick
DAY = 900  # flights a day
SCORE = DriftColumn("score", "number", 0.0)
SEED = 20130701


@dataclass(frozen=True)
class World:
    """A stationary period: a reference and a pool of other rows, shuffled, with scores and outcomes."""

    columns: tuple[DriftColumn, ...]
    reference: dict[str, Column]
    pool: dict[str, Column]
    days: Codes | None = None  # of the reference's rows

    @cached_property
    def profile(self) -> Profile:
        """The reference made ready, the score as its last column."""
        return fit_profile(self.reference, self.columns, calendar=PROBLEM.calendar, days=self.days)

    @cached_property
    def scores(self) -> Profile:
        """The same of the score alone."""
        return fit_profile(self.reference, [SCORE], calendar=PROBLEM.calendar, days=self.days)

    @cached_property
    def encoded(self) -> tuple[Codes, Codes]:
        """The pool's bins and strata."""
        return self.profile.encode(self.pool)

    @cached_property
    def encoded_scores(self) -> tuple[Codes, Codes]:
        """The pool's scores in bins."""
        return self.scores.encode(self.pool)

    @cached_property
    def held(self) -> tuple[Any, Any]:
        """Scores and outcomes of 20,000 rows of the reference: quality is compared with no more in life."""
        return pick_labelled({name: values[:20_000] for name, values in self.reference.items()})

    @cached_property
    def calibration(self) -> Calibration:
        """Fitted on the reference."""
        told = ~np.isnan(np.asarray(self.reference[PROBLEM.target], dtype=float)[:20_000])
        return fit_calibration(*self.held, self.days[:20_000][told] if self.days is not None else None)

    @cached_property
    def size(self) -> int:
        """Rows of the pool."""
        return len(self.pool["score"])


@cache
def build_world(since: datetime, until: datetime) -> World:
    """Take the period's flights in random order: some to learn from, half of the rest the reference.

    The model is of the same flights: one of another season is wrong about these from the first day, and
    to say so is no false alarm. It is the project's linear one: quick to fit, and alarms must hold for any.
    """
    within = pl.col("decided_at").is_between(since, until, closed="left")
    rows = prepare().read_rows().filter(within).sample(fraction=1.0, shuffle=True, seed=SEED)
    taught, period = rows[:TAUGHT].drop_nulls(PROBLEM.target), rows[TAUGHT:]
    estimator = build_linear(PROBLEM).fit(to_matrix(taught), taught[PROBLEM.target].to_numpy())
    period = period.with_columns(score=pl.Series(predict(estimator, period, PROBLEM)))
    columns = choose_columns(estimator, taught[:2_000])
    half = len(period) // 2
    sides = [to_columns(part, columns) for part in (period[:half], period[half:])]
    # Windows are drawn row by row, and so are the reference's days: real ones would widen the bounds.
    days = np.random.default_rng(SEED).integers(0, half // DAY, half)
    return World(tuple(columns), *sides, days)


def to_matrix(rows: pl.DataFrame) -> Any:
    """Return the model's input."""
    from flows.training_set import to_matrix as convert

    return convert(rows, PROBLEM)


def choose_columns(estimator: Any, rows: pl.DataFrame) -> list[DriftColumn]:
    """Return 25 features that are not the calendar's, with their importance."""
    weight = measure_importance(estimator, rows, PROBLEM)
    left_out = PROBLEM.calendar | LEFT_OUT
    return [DriftColumn(f.name, f.kind, weight[f.name]) for f in PROBLEM.features if f.name not in left_out]


def to_columns(rows: pl.DataFrame, columns: Sequence[DriftColumn]) -> dict[str, Column]:
    """Return the columns, the calendar's, the score and the outcome as arrays."""
    others = [SCORE, *(DriftColumn(n, "number") for n in (*sorted(PROBLEM.calendar), PROBLEM.target))]
    return to_arrays(rows, [*columns, *others])


def pick_labelled(frame: Mapping[str, Column]) -> tuple[Any, Any]:
    """Return scores and outcomes of the rows that have an outcome."""
    outcomes = np.asarray(frame[PROBLEM.target], dtype=float)
    told = ~np.isnan(outcomes)
    return np.asarray(frame["score"], dtype=float)[told], outcomes[told]


class Evidently:
    """Evidently's default tests as its DataDriftPreset chooses them, without the drawing of its report.

    The choice and the tests are the library's own code; `run_preset` is the report itself, by which the
    proof checks that both say the same.
    """

    def __init__(self, reference: Mapping[str, Column], columns: Sequence[DriftColumn], rows: int) -> None:
        self.columns = [*columns, SCORE]
        self.reference = self.to_pandas({c.name: reference[c.name][:rows] for c in self.columns})

    def to_pandas(self, frame: Mapping[str, Column]) -> Any:
        """Return the columns as a data frame."""
        import pandas as pd

        return pd.DataFrame({c.name: frame[c.name] for c in self.columns})

    def find_drifted(self, frame: Mapping[str, Column]) -> list[str]:
        """Return the columns that the default tests call drifted; a column without values is one."""
        quiet()
        from evidently.legacy.calculations.stattests import get_stattest
        from evidently.legacy.core import ColumnType

        current, found = self.to_pandas(frame), []
        for column in self.columns:
            kind = ColumnType.Numerical if column.kind == "number" else ColumnType.Categorical
            old, new = self.reference[column.name].dropna(), current[column.name].dropna()
            if not len(new) or get_stattest(old, new, kind, None)(old, new, kind, None).drifted:
                found.append(column.name)
        return found

    def run_preset(self, frame: Mapping[str, Column]) -> tuple[list[str], Any]:
        """Run the report; return the columns it calls drifted, and the report."""
        quiet()
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        kinds = {
            kind: [c.name for c in self.columns if (c.kind == "number") is (kind == "number")]
            for kind in ("number", "category")
        }
        definition = DataDefinition(numerical_columns=kinds["number"], categorical_columns=kinds["category"])
        sides = [
            Dataset.from_pandas(f, data_definition=definition)
            for f in (self.to_pandas(frame), self.reference)
        ]
        report = Report([DataDriftPreset()], include_tests=True).run(*sides)
        tests = [t for t in report.dict()["tests"] if t["id"] == "drift" and t["status"] == "FAIL"]
        found = [t["metric_config"]["params"]["column"] for t in tests]
        return found, report


def quiet() -> None:
    """Silence what Evidently's imports and tests warn of."""
    warnings.simplefilter("ignore")


def show_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stderr."""
    wide = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print("  ".join(str(cell).ljust(w) for cell, w in zip(row, wide, strict=True)), file=sys.stderr)


def figure(name: str, value: object, bar: str, ok: bool, **told: object) -> dict[str, Any]:
    """Return one figure of a proof."""
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok), **told}
