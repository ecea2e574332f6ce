"""Which columns a feature table reads, and which fields an input of the request."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from feature_repo.contract import FeatureTable, Period, Problem
from feature_repo.errors import PerennialError
from feature_repo.fingerprint import REQUEST

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


def find_request_fields(problem: Problem) -> dict[str, tuple[str, ...]]:
    """Return the fields that each input of the request reads.

    Its function is run on one made-up request, each field emptied in turn: an input that changes reads it.
    One of which nothing can be told reads all of them; one that the function does not make is a field itself.
    """
    fields = dict(problem.request_fields)
    given = {name: _make_value(problem, kind) for name, kind in fields.items()}
    plain = _try_request(problem, given)
    emptied = {name: _try_request(problem, {**given, name: None}) for name in fields}
    found: dict[str, tuple[str, ...]] = {}
    for name in (f.name for f in problem.features if f.source == REQUEST):
        if plain and name not in plain:
            found[name] = (name,)
            continue
        read = tuple(
            field for field, row in emptied.items() if not row or not plain or row[name] != plain[name]
        )
        found[name] = read or tuple(fields)
    return found


def _make_value(problem: Problem, kind: pl.DataType | type[pl.DataType]) -> Any:
    if kind.is_temporal():
        return problem.start + timedelta(hours=13, minutes=17)
    return "7" if kind == pl.String else True if kind == pl.Boolean else 7


def _try_request(problem: Problem, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    frame = pl.DataFrame([values], schema=dict(problem.request_fields))
    try:
        return next(problem.add_request_features(frame).iter_rows(named=True), None)
    except (pl.exceptions.PolarsError, PerennialError, KeyError, ValueError, TypeError):
        return None


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
