"""The vocabulary of a suite: rules in plain words, each naming the Great Expectations class it becomes.

A row rule judges each row; a broken one sends the row to quarantine. A batch rule judges the batch as a
whole, by a measure of its profile (`expectations.profile`); a broken one stops it. A rule that only warns
is told and counted, and keeps nothing back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Rule:
    """One expectation: `expect` is the class in `great_expectations.expectations`."""

    name: str
    expect: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scope: Literal["row", "batch"] = "row"
    severity: Severity = "critical"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule looks at; of a batch rule, its measure."""
        names = [self.arguments[key] for key in ("column", "column_A", "column_B") if key in self.arguments]
        return tuple(dict.fromkeys([*names, *self.arguments.get("column_list", ())]))


def present(*columns: str) -> list[Rule]:
    """Each column has a value in each row."""
    return [Rule(f"{c} is present", "ExpectColumnValuesToNotBeNull", {"column": c}) for c in columns]


def unique(column: str) -> Rule:
    """No two rows share the value."""
    return Rule(f"{column} is unique", "ExpectColumnValuesToBeUnique", {"column": column})


def between(column: str, low: float, high: float) -> Rule:
    """The value lies in [low, high]; a missing one passes."""
    name = f"{column} lies between {low:g} and {high:g}"
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Rule(name, "ExpectColumnValuesToBeBetween", arguments)


def one_of(column: str, values: Iterable[str]) -> Rule:
    """The value is in the set; a missing one passes."""
    values = list(values)
    name = f"{column} is one of {', '.join(values)}"
    return Rule(name, "ExpectColumnValuesToBeInSet", {"column": column, "value_set": values})


def like(column: str, pattern: str, words: str) -> Rule:
    """The value matches the pattern, which `words` describe; a missing one passes."""
    arguments = {"column": column, "regex": pattern}
    return Rule(f"{column} is {words}", "ExpectColumnValuesToMatchRegex", arguments)


def equal(a: str, b: str, words: str) -> Rule:
    """Two columns agree in each row; `words` say why they must."""
    return Rule(words, "ExpectColumnPairValuesToBeEqual", {"column_A": a, "column_B": b})


def greater(a: str, b: str, words: str, *, or_equal: bool = True) -> Rule:
    """Column `a` is above `b` in each row that has both; `words` say why it must be."""
    arguments = {"column_A": a, "column_B": b, "or_equal": or_equal}
    return Rule(
        words,
        "ExpectColumnPairValuesAToBeGreaterThanB",
        {**arguments, "ignore_row_if": "either_value_is_missing"},
    )


def row_count(low: int, high: int) -> Rule:
    """The batch has this many rows."""
    return _measure(f"between {low} and {high} rows", "rows", low, high)


def newest(column: str, since: datetime, until: datetime) -> Rule:
    """The newest value of an instant lies in [since, until]: the batch is fresh and none is ahead."""
    name = f"newest {column} is from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}"
    return _measure(name, f"{column}.newest", since.timestamp(), until.timestamp())


def share_present(column: str, share: float) -> Rule:
    """At least this share of the rows has a value."""
    name = f"{column} is present in {share:.0%} of rows or more"
    return _measure(name, f"{column}.null_share", None, 1 - share)


def measured(
    measure: str, low: float | None, high: float | None, words: str, *, severity: Severity = "critical"
) -> Rule:
    """A measure of the batch's profile lies in [low, high]; `words` say where the limits come from."""
    usual = "is usually" if severity == "warning" else "is"
    if low is None or high is None:
        limits = f"at most {high:.4g}" if low is None else f"at least {low:.4g}"
    else:
        limits = f"between {low:.4g} and {high:.4g}"
    return _measure(f"{measure} {usual} {limits}, {words}", measure, low, high, severity)


def _measure(
    name: str, measure: str, low: float | None, high: float | None, severity: Severity = "critical"
) -> Rule:
    arguments = {"column": measure, "min_value": low, "max_value": high}
    kept = {key: value for key, value in arguments.items() if value is not None}
    return Rule(name, "ExpectColumnValuesToBeBetween", kept, "batch", severity)


def _limit(name: str, above: str, below: str, severity: Severity) -> Rule:
    return replace(greater(above, below, name), scope="batch", severity=severity)


# What is asked of a table of limits, a row a measure, however many limits there are.
LIMITS = (
    _limit("no measure is far below the batch's own past", "value", "stop_low", "critical"),
    _limit("no measure is far above the batch's own past", "stop_high", "value", "critical"),
    _limit("no measure is below what is usual", "value", "warn_low", "warning"),
    _limit("no measure is above what is usual", "warn_high", "value", "warning"),
)
