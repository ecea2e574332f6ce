"""The only caller of Great Expectations: run(frame, suite) -> a report with the failing rows."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import polars as pl

from expectations.rules import Rule
from feature_repo.contract import Period, RawTable


@dataclass(frozen=True)
class Failure:
    """A rule that did not hold; `rows` are positions in the frame, none for a batch rule."""

    rule: str
    scope: str
    observed: str
    rows: tuple[int, ...] = ()
    severity: str = "critical"


@dataclass(frozen=True)
class Report:
    """What validation found in one batch."""

    failures: tuple[Failure, ...]
    rules_run: int
    profile: Mapping[str, float] = field(default_factory=dict)

    @property
    def stops(self) -> tuple[Failure, ...]:
        """Failures that concern the batch as a whole."""
        return tuple(f for f in self.failures if f.scope == "batch" and f.severity == "critical")

    @property
    def warnings(self) -> tuple[Failure, ...]:
        """Failures that are told and keep nothing back."""
        return tuple(failure for failure in self.failures if failure.severity == "warning")

    def broken_rules(self) -> dict[int, list[str]]:
        """Return, for each failing row's position, the rules that it broke."""
        broken: dict[int, list[str]] = {}
        for failure in self.failures:
            for row in failure.rows if failure.severity == "critical" else ():
                broken.setdefault(row, []).append(failure.rule)
        return broken


def validate(
    frame: pl.DataFrame,
    table: RawTable,
    period: Period,
    *,
    rules: Sequence[Rule],
    add_columns: Callable[[pl.DataFrame], pl.DataFrame],
    history: pl.DataFrame,
    time_zone: str,
) -> Report:
    """Judge one batch: its schema first, then every rule.

    history   measures of the table's earlier batches: batch_id, since, until, measure, value
    """
    schema = check_schema(frame, table)
    if schema.failures:
        return schema
    return replace(run(add_columns(frame), rules), profile={"rows": float(len(frame))})


def check_schema(frame: pl.DataFrame, table: RawTable) -> Report:
    """Compare column names and types with the table's; order does not matter."""
    failures = []
    expected = {name: pl.DataFrame(schema={name: kind}).dtypes[0] for name, kind in table.schema.items()}
    for name, kind in expected.items():
        if name not in frame.columns:
            failures.append(Failure(f"column {name} exists", "batch", "missing"))
        elif frame[name].dtype != kind:
            failures.append(Failure(f"column {name} is {kind}", "batch", f"is {frame[name].dtype}"))
    unknown = [name for name in frame.columns if name not in expected]
    failures += [Failure("no unknown column", "batch", f"column {name}") for name in unknown]
    return Report(tuple(failures), len(expected))


def run(frame: pl.DataFrame, suite: Sequence[Rule]) -> Report:
    """Run every rule of the suite over the frame.

    All rules are asked for yes or no; only those that failed are run again for the failing rows, which
    costs Great Expectations twice the time.
    """
    pandas = frame.to_pandas()
    first = _validate(pandas, suite, "BOOLEAN_ONLY")
    failed = [rule for rule, result in zip(suite, first, strict=True) if not result.success]
    details = _validate(pandas, failed, "COMPLETE") if failed else []
    found = [_read(rule, result) for rule, result in zip(failed, details, strict=True)]
    return Report(tuple(failure for failure in found if failure is not None), len(suite))


def _validate(frame: Any, suite: Sequence[Rule], result_format: str) -> list[Any]:
    import great_expectations as gx

    expectations = [getattr(gx.expectations, rule.expect)(**rule.arguments) for rule in suite]
    result = (
        _batch_definition()
        .get_batch({"dataframe": frame})
        .validate(
            gx.ExpectationSuite(name="batch", expectations=expectations),
            result_format={"result_format": result_format},
        )
    )
    # Results may come in another order than the rules went in: each is matched by what it says.
    found = {_identity(r.expectation_config.type, r.expectation_config.kwargs): r for r in result.results}
    return [found[_identity(e.configuration.type, e.configuration.kwargs)] for e in expectations]


def _read(rule: Rule, result: Any) -> Failure | None:
    raised = [i for i in _exceptions(result.exception_info) if i.get("raised_exception")]
    if raised:
        # An expectation that could not be computed has not passed.
        return Failure(rule.name, "batch", f"could not be computed: {raised[0].get('exception_message')}")
    details = result.result or {}
    rows = tuple(sorted(set(details.get("unexpected_index_list") or ())))
    if rule.scope == "row":
        observed = ", ".join(str(v) for v in (details.get("partial_unexpected_list") or [])[:5])
        return Failure(rule.name, "row", observed, rows) if rows else None
    if result.success:
        return None
    return Failure(rule.name, "batch", str(details.get("observed_value")))


def _exceptions(info: Any) -> list[dict[str, Any]]:
    # One exception comes as itself, several as a mapping from metric to exception.
    if not info:
        return []
    return [info] if "raised_exception" in info else [i for i in info.values() if isinstance(i, dict)]


def _identity(kind: str, arguments: Any) -> str:
    kept = {k: v for k, v in dict(arguments).items() if v is not None and k != "batch_id"}
    return f"{kind} {sorted((k, str(v)) for k, v in kept.items())}"


@lru_cache(maxsize=1)
def _batch_definition() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    # GX reports its temporary folders at INFO; a reader of the run has no use for them.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset("batch")
    return asset.add_batch_definition_whole_dataframe("whole")
