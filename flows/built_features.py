"""What of the feature tables stands already: no tick is computed twice from the same rows.

A tick stands if a commit of its table computed it by today's definition, and no batch that landed since
reaches into the rows that it was computed from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import polars as pl

from feature_repo.contract import FeatureTable, Period
from flows.manifests import read_manifests
from flows.project import Project

# What a commit of a feature table says of itself.
PERIOD, VERSIONS, DEFINITION = "perennial.period", "perennial.versions", "perennial.definition"
UPKEEP = {"OPTIMIZE", "VACUUM START", "VACUUM END"}  # these leave the rows as they are
REMEMBERED = 100  # commits of a table that are looked at: four days of hourly runs


@dataclass(frozen=True)
class _Commit:
    period: Period
    versions: Mapping[str, int]
    definition: str


class BuiltFeatures:
    """The feature tables as they are now, for one build."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def find_missing(self, table: FeatureTable, period: Period, definition: str) -> Period | None:
        """Return the part of the period, up to its end, that has to be computed; None if all of it stands."""
        ticks = table.ticks(period)
        commits = self._read_commits(table)
        missing = [tick for tick in ticks if not self._stands(table, tick, definition, commits)]
        if not missing:
            return None if self._project.lake.has(table.name) else period
        before = [tick for tick in ticks if tick < min(missing)]
        return Period(max(before, default=period.since), period.until)

    def _read_commits(self, table: FeatureTable) -> list[_Commit]:
        """Return the newest commits of a table that say what they computed, newest first."""
        found = []
        for commit in self._project.lake.history(table.name, limit=REMEMBERED):
            if PERIOD in commit:
                period, versions = _parse(commit[PERIOD]), json.loads(commit[VERSIONS])
                found.append(_Commit(period, versions, commit.get(DEFINITION, "")))
            elif commit.get("operation") not in UPKEEP:
                break  # somebody else wrote: what was before it need not be there any more
        return found

    def _stands(
        self, table: FeatureTable, tick: datetime, definition: str, commits: Sequence[_Commit]
    ) -> bool:
        newest = next((c for c in commits if c.period.since < tick <= c.period.until), None)
        return newest is not None and newest.definition == definition and self._is_current(table, newest)

    def _is_current(self, table: FeatureTable, commit: _Commit) -> bool:
        reach = Period(commit.period.since - table.lookback, commit.period.until)
        return all(self._is_untouched(raw, commit.versions.get(raw, -1), reach) for raw in table.reads)

    def _is_untouched(self, raw: str, version: int, reach: Period) -> bool:
        """Tell whether every commit since a version is of a batch that does not reach into the rows read."""
        newest = self._project.lake.version(raw)
        if newest == version:
            return True
        mine = self._batches.filter((pl.col("table") == raw) & (pl.col("version") > version))
        # A commit that no manifest names may have changed anything.
        if set(range(version + 1, newest + 1)) - set(mine["version"]):
            return False
        return mine.filter((pl.col("until") > reach.since) & (pl.col("since") < reach.until)).is_empty()

    @cached_property
    def _batches(self) -> pl.DataFrame:
        return read_manifests(self._project.lake)


def _parse(period: str) -> Period:
    since, until = (datetime.fromisoformat(end) for end in period.split("/"))
    return Period(since, until)
