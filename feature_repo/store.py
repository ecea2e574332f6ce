"""The only caller of Feast: apply definitions, write and read features, historical and online.

The online store is Feast's by its own extension point (online_store.py). A request's vector is read
straight from its tables, which costs a small part of what Feast's interface does and gives the same values.
"""

import os
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from feature_repo.contract import FeatureTable, Period, Problem
from feature_repo.errors import StoreUnavailable
from feature_repo.freshness import Freshness, OnlineVector, judge_ages
from feature_repo.online_tables import STAMP, OnlineTable, OnlineTables, VectorQuery

if TYPE_CHECKING:
    from feature_repo.lake import Lake, Snapshot
    from feature_repo.materializations import Materializations

__all__ = ["FeatureStore", "OnlineVector", "judge_ages"]

PROJECT = "perennial"
COLUMNS: dict[Any, str] = {pl.Float64: "REAL", pl.Int64: "INTEGER", pl.String: "TEXT", pl.Boolean: "BOOLEAN"}


class FeatureStore:
    """One problem's features under one home, read at a snapshot's table versions if one is given."""

    def __init__(self, home: Path, problem: Problem, snapshot: "Snapshot | None" = None) -> None:
        os.environ.setdefault("FEAST_USAGE", "False")
        self._home = home
        self._problem = problem
        self._versions = dict(snapshot.versions) if snapshot else {}
        self._online = OnlineTables(home / "feast" / "online.db")
        self._layouts = {table.name: _lay_out(table) for table in problem.feature_tables}
        self._freshness = Freshness(problem.feature_tables)
        self._query = VectorQuery(list(self._layouts.values()), self._freshness.hold)

    def apply(self) -> None:
        """Register the problem's views and service, and make the online tables. Safe to repeat.

        A table that is new or of another layout (also that of Feast's own store, which homes had before)
        is empty; it is filled from the lake if anything was ever put online.
        """
        from feature_repo.definitions import build_objects

        (self._home / "feast").mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # Feast calls every request-time view experimental; their offline join here is our own.
            warnings.filterwarnings("ignore", "On demand feature view", RuntimeWarning)
            self._store.apply(list(build_objects(self._problem).values()))
        names = {layout.name: name for name, layout in self._layouts.items()}
        if any(self._lake.has(names[empty]) for empty in self._online.list_empty(list(names))):
            self.refresh()

    def read_historical(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return `rows` with every feature as it was known at each row's `decided_at`."""
        problem = self._problem
        # As a frame of Polars through Feast's interface: it hands it to the offline store as it is. What
        # Feast itself would add, the request-time view by way of pandas, is added by the same function.
        keys = sorted({key for table in problem.used_tables for key in table.keys})
        asked = rows.with_columns(pl.col(problem.decided_at).alias(STAMP), pl.col(keys).cast(pl.String))
        service = self._store.get_feature_service(problem.feature_service)
        job = self._store.get_historical_features(entity_df=asked, features=service)
        frame = problem.add_request_features(job.to_polars()).drop(STAMP)
        numbers = [f.name for f in problem.features if f.kind == "number"]
        return frame.with_columns(pl.col(numbers).cast(pl.Float64))

    def write_period(self, frames: Mapping[str, pl.DataFrame], period: Period) -> int:
        """Write what the ticks in (since, until] say, of frames by table name that the lake holds.

        Only each key's newest row is written, and none over a newer one. Returns rows changed.
        """
        within = pl.col(STAMP).is_between(period.since, period.until, closed="right")
        newest = {
            name: self._pick_newest(name, frame.filter(within))
            for name, frame in frames.items()
            if len(frame)
        }
        parts = {name: frame for name, frame in newest.items() if len(frame)}
        if not parts:
            return 0
        with self._log.writing(period.since, period.until, self._lake.current(parts)):
            return self._write_online(parts)

    def refresh(self) -> int:
        """Write each key's newest row anew from the lake, up to the newest tick online; return rows changed.

        What a correction changed, or took back to an older row, is then online as well. A table whose rows
        in the lake lack a feature is left as it is: the feature has not been computed for the past.
        """
        from feature_repo.lake import Snapshot

        until = self._log.newest_tick()
        if until is None:
            return 0
        tables = [t.name for t in self._problem.feature_tables if self._lake.has(t.name)]
        versions = self._lake.current(tables).versions
        frames = {name: self._lake.read(name, version=version) for name, version in versions.items()}
        whole = {n: f for n, f in frames.items() if {*self._layouts[n].columns} <= {*f.columns}}
        if not whole:
            return 0
        newest = {n: self._pick_newest(n, f.filter(pl.col(STAMP) <= until)) for n, f in whole.items()}
        with self._log.writing(None, until, Snapshot.of({name: versions[name] for name in whole})):
            return self._write_online(newest, over=until)

    def read_online(self, rows: Sequence[Mapping[str, Any]]) -> list[OnlineVector]:
        """Return each row's features as they are now, judged at its `decided_at`.

        A row needs the join keys and `decided_at` (aware). Raises StoreUnavailable.
        """
        names, decided_at = self._query.keys, self._problem.decided_at
        try:
            held = self._online.read(self._query, ([row[name] for name in names] for row in rows))
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        judge = self._freshness.judge
        return [judge(one, row[decided_at]) for row, one in zip(rows, held, strict=True)]

    def _pick_newest(self, name: str, frame: pl.DataFrame) -> pl.DataFrame:
        keys = list(self._problem.table(name).keys)
        # Nobody can ask for a row without a key.
        return frame.drop_nulls(keys).sort(STAMP).unique(keys, keep="last", maintain_order=True)

    def _write_online(self, frames: Mapping[str, pl.DataFrame], *, over: datetime | None = None) -> int:
        parts = ((self._layouts[name], _to_rows(self._layouts[name], part)) for name, part in frames.items())
        try:
            return self._online.write(parts, over=over)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    @cached_property
    def _lake(self) -> "Lake":
        from feature_repo.lake import Lake

        return Lake(self._home / "lake")

    @cached_property
    def _log(self) -> "Materializations":
        from feature_repo.materializations import Materializations

        return Materializations(self._home / "feast")

    @cached_property
    def _store(self) -> Any:
        # Importing Feast takes seconds, and who only reads online needs none of it.
        from feast import FeatureStore as Feast
        from feast.repo_config import RepoConfig

        feast = self._home / "feast"
        return Feast(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                registry={"path": str(feast / "registry.db"), "cache_ttl_seconds": 0},
                online_store={
                    "type": "feature_repo.online_store.LakeOnlineStore",
                    "path": str(feast / "online.db"),
                },
                offline_store={
                    "type": "feature_repo.offline_store.LakeOfflineStore",
                    "lake": str(self._home / "lake"),
                    "versions": self._versions,
                },
                repo_path=Path(__file__).parent,
                entity_key_serialization_version=3,
            )
        )

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            "online feature store",
            got=f"{type(error).__name__}: {error}",
            expected="an answer",
            next_step=f"Look at {self._home / 'feast'}; run ingest to fill it anew.",
        )


def _lay_out(table: FeatureTable) -> OnlineTable:
    """Return a feature table's online table, as Feast's view of it has it (a contract test says so)."""
    features = {name: COLUMNS[kind] for name, kind in table.features.items()}
    return OnlineTable(f"{PROJECT}_{table.name}", dict.fromkeys(table.keys, "TEXT"), features)


def _to_rows(layout: OnlineTable, frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    # In the order of the keys, which is that of the file.
    rows = frame.with_columns(pl.col(STAMP).dt.epoch("us")).select(layout.columns).sort(list(layout.keys))
    return rows.rows()
