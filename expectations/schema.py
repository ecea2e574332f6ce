"""A batch's columns against those of its table."""

import polars as pl

from expectations.report import Failure, Report
from feature_repo.contract import RawTable


def check_schema(frame: pl.DataFrame | pl.LazyFrame, table: RawTable) -> Report:
    """Compare column names and types with the table's; another order is told and does no harm."""
    failures = []
    got = frame.lazy().collect_schema()
    expected = pl.DataFrame(schema=dict(table.schema)).schema
    for name, kind in expected.items():
        if name not in got:
            failures.append(Failure(f"column {name} exists", "batch", "missing"))
        elif got[name] != kind:
            failures.append(Failure(f"column {name} is {kind}", "batch", f"is {got[name]}"))
    unknown = [name for name in got if name not in expected]
    failures += [Failure("no unknown column", "batch", f"column {name}") for name in unknown]
    if not failures and list(got) != list(expected):
        told = Failure("columns are in their usual order", "batch", ", ".join(got), severity="warning")
        failures.append(told)
    return Report(tuple(failures), len(expected))
