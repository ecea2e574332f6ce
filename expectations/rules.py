"""The vocabulary of a suite: rules in plain words, each naming the Great Expectations class it becomes.

A row rule judges each row; a broken one sends the row to quarantine. A batch rule judges the batch as a
whole; a broken one stops it. A rule that only warns is told and counted, and keeps nothing back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Rule:
    """One expectation: `expect` is the class in `great_expectations.expectations`."""

    name: str
    expect: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scope: Literal["row", "batch"] = "row"
    severity: Literal["critical", "warning"] = "critical"


def present(*columns: str) -> list[Rule]:
    """Each column has a value in each row."""
    return [Rule(f"{c} is present", "ExpectColumnValuesToNotBeNull", {"column": c}) for c in columns]


def unique(column: str) -> Rule:
    """No two rows share the value."""
    return Rule(f"{column} is unique", "ExpectColumnValuesToBeUnique", {"column": column})


def unique_together(*columns: str) -> Rule:
    """No two rows share the values."""
    name = f"{' and '.join(columns)} are unique together"
    return Rule(name, "ExpectCompoundColumnsToBeUnique", {"column_list": list(columns)})


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


def row_count(low: int, high: int) -> Rule:
    """The batch has this many rows."""
    arguments = {"min_value": low, "max_value": high}
    return Rule(f"between {low} and {high} rows", "ExpectTableRowCountToBeBetween", arguments, "batch")


def newest(column: str, since: Any, until: Any) -> Rule:
    """The newest value of an instant lies in [since, until]: the batch is fresh and none is ahead."""
    name = f"newest {column} is from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}"
    arguments = {"column": column, "min_value": since, "max_value": until}
    return Rule(name, "ExpectColumnMaxToBeBetween", arguments, "batch")


def share_present(column: str, share: float) -> Rule:
    """At least this share of the rows has a value."""
    arguments = {"column": column, "min_value": share}
    name = f"{column} is present in {share:.0%} of rows or more"
    return Rule(name, "ExpectColumnProportionOfNonNullValuesToBeBetween", arguments, "batch")
