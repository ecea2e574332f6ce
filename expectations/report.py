"""What validation found in one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from expectations.rules import Rule


@dataclass(frozen=True)
class Failure:
    """A rule that did not hold; `rows` are positions in the frame, none for a batch rule."""

    rule: str
    scope: str
    observed: str
    rows: tuple[int, ...] = ()
    severity: str = "critical"


@dataclass(frozen=True)
class Verdict:
    """What Great Expectations said of one rule; `result` is its own, for the page.

    A rule breaks once, but for one that stands for limits on many measures: once a measure.
    """

    rule: Rule
    failures: tuple[Failure, ...] = ()
    result: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Report:
    """What validation found in one batch.

    profile   measures of the batch, see `expectations.profile`
    verdicts  what was said of each rule, for the page
    limits    what the batch's own past allows: measure, value, stop_low, stop_high, warn_low, warn_high
    """

    failures: tuple[Failure, ...]
    rules_run: int
    profile: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = field(default=(), compare=False, repr=False)
    limits: pl.DataFrame = field(default_factory=pl.DataFrame, compare=False, repr=False)

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


def merge_parts(parts: Sequence[Sequence[Verdict]]) -> list[Verdict]:
    """Return one verdict a rule from those on each part of a batch: failing rows are those of all parts."""
    merged = []
    for same in zip(*parts, strict=True):
        failed = [verdict for verdict in same if verdict.failures]
        worst = (failed or same)[0]
        rows = sorted({row for verdict in failed for failure in verdict.failures for row in failure.rows})
        merged.append(replace(worst, failures=tuple(replace(f, rows=tuple(rows)) for f in worst.failures)))
    return merged
