"""Which columns a feature table reads: those without which its function does not run."""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl

from feature_repo.contract import FeatureTable, Period, Problem
from feature_repo.errors import PerennialError

Schema = Mapping[str, pl.DataType | type[pl.DataType]]


def find_columns(problem: Problem, table: FeatureTable) -> dict[str, tuple[str, ...]]:
    """Return the columns that a table reads, by raw table.

    Its function is run on empty tables, each column left out in turn. One that cannot run on them reads,
    as far as can be told, every column.
    """
    schemas = {raw.name: dict(raw.schema) for raw in problem.raw if raw.name in table.reads}
    if not _runs(problem, table, schemas):
        return {name: tuple(schema) for name, schema in schemas.items()}
    return {
        name: tuple(column for column in schema if not _runs(problem, table, _without(schemas, name, column)))
        for name, schema in schemas.items()
    }


def _without(schemas: Mapping[str, Schema], name: str, column: str) -> Mapping[str, Schema]:
    return {**schemas, name: {other: kind for other, kind in schemas[name].items() if other != column}}


def _runs(problem: Problem, table: FeatureTable, schemas: Mapping[str, Schema]) -> bool:
    ticks = table.ticks(Period(problem.start, problem.start + max(table.every * 2, timedelta(days=2))))
    empty = {name: pl.DataFrame(schema=dict(schema)) for name, schema in schemas.items()}
    try:
        table.compute(empty, list(ticks)[:1])
    except (pl.exceptions.PolarsError, PerennialError, KeyError, ValueError):
        return False
    return True
