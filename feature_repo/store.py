"""The only caller of Feast: apply definitions, write and read features, historical and online."""

import math
import os
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from feature_repo.contract import Period, Problem
from feature_repo.errors import StoreUnavailable

if TYPE_CHECKING:
    from feature_repo.lake import Lake, Snapshot
    from feature_repo.materializations import Materializations

STAMP = "event_timestamp"


@dataclass(frozen=True, slots=True)
class OnlineVector:
    """Store-backed features of one request; None where there is no value that may be used.

    missing   features that the store has no value for
    expired   feature -> age in seconds, older than its view's `ttl`; negative: from after the request
    """

    values: dict[str, float | None]
    missing: tuple[str, ...]
    expired: dict[str, float]


class FeatureStore:
    """One problem's features under one home, read at a snapshot's table versions if one is given."""

    def __init__(self, home: Path, problem: Problem, snapshot: "Snapshot | None" = None) -> None:
        os.environ.setdefault("FEAST_USAGE", "False")
        self._home = home
        self._problem = problem
        self._store = self._open(dict(snapshot.versions) if snapshot else {})

    def apply(self) -> None:
        """Register the problem's views and service, and make the online tables. Safe to repeat."""
        from feature_repo.definitions import build_objects

        (self._home / "feast").mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # Feast calls every request-time view experimental; their offline join here is our own.
            warnings.filterwarnings("ignore", "On demand feature view", RuntimeWarning)
            self._store.apply(list(build_objects(self._problem).values()))
        # Readers in the service must not wait for the writer.
        with sqlite3.connect(self._home / "feast" / "online.db") as online:
            online.execute("PRAGMA journal_mode=WAL")

    def read_historical(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return `rows` with every feature as it was known at each row's `decided_at`."""
        from feature_repo.definitions import request_numbers

        decided_at = self._problem.decided_at
        entity_frame = rows.with_columns(pl.col(decided_at).alias(STAMP)).to_pandas()
        service = self._store.get_feature_service(self._problem.feature_service)
        given = [name for name in entity_frame.columns if name not in request_numbers(self._problem)]
        job = self._store.get_historical_features(entity_df=entity_frame[given], features=service)
        table = pl.from_arrow(job.to_arrow())
        assert isinstance(table, pl.DataFrame)
        numbers = [f.name for f in self._problem.features if f.kind == "number"]
        return table.drop(STAMP).with_columns(pl.col(numbers).cast(pl.Float64))

    def write_period(self, frames: Mapping[str, pl.DataFrame], period: Period) -> int:
        """Write what the ticks in (since, until] say, of frames by table name that the lake holds.

        Only each key's newest row is written, and none over a newer one. Returns rows written.
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
        with self._log.writing(period.since, period.until, self._lake.current(parts)) as reached:
            # Ticks beyond all that was ever written have nothing newer to look for.
            ahead = reached is not None and reached <= period.since
            kept = parts if ahead else {name: self._drop_older(name, part) for name, part in parts.items()}
            return sum(self._write_online(name, part) for name, part in kept.items())

    def refresh(self) -> int:
        """Write each key's newest row anew from the lake, up to the newest tick online; return rows.

        What a correction changed, or took back to an older row, is then online as well.
        """
        until = self._log.newest_tick()
        tables = [t.name for t in self._problem.feature_tables if self._lake.has(t.name)]
        if until is None or not tables:
            return 0
        snapshot = self._lake.current(tables)
        with self._log.writing(None, until, snapshot):
            written = 0
            for name, version in snapshot.versions.items():
                rows = self._lake.read(name, version=version).filter(pl.col(STAMP) <= until)
                written += self._write_online(name, self._pick_newest(name, rows))
        return written

    def read_online(self, rows: Sequence[Mapping[str, Any]]) -> list[OnlineVector]:
        """Return each row's features as they are now, judged at its `decided_at`.

        A row needs the join keys and `decided_at` (aware). Raises StoreUnavailable.
        """
        keys = sorted({key for table in self._problem.feature_tables for key in table.keys})
        refs = [f"{table.name}:{name}" for table in self._problem.feature_tables for name in table.features]
        try:
            answer = self._store.get_online_features(
                features=refs, entity_rows=[{key: row[key] for key in keys} for row in rows]
            ).to_dict(include_event_timestamps=True)
        except Exception as error:  # Feast wraps a store's own errors in many kinds
            raise self._unavailable(error) from error
        return [
            judge_ages(self._problem, answer, index, row[self._problem.decided_at])
            for index, row in enumerate(rows)
        ]

    def _pick_newest(self, name: str, frame: pl.DataFrame) -> pl.DataFrame:
        keys = list(self._problem.table(name).keys)
        return frame.sort(STAMP).unique(keys, keep="last", maintain_order=True)

    def _drop_older(self, name: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that are not older than what the store holds for their keys."""
        table = self._problem.table(name)
        first = next(iter(table.features))
        answer = self._store.get_online_features(
            features=[f"{name}:{first}"], entity_rows=frame.select(table.keys).to_dicts()
        ).to_dict(include_event_timestamps=True)
        held = pl.Series(answer[f"{first}__ts"], dtype=pl.Float64)
        return frame.filter(pl.col(STAMP).dt.epoch("us") / 1e6 >= held)

    def _write_online(self, name: str, frame: pl.DataFrame) -> int:
        if len(frame):
            try:
                # Feast's own `write_to_online_store` ends here too, but leaves out a frame of nulls: the
                # newest row would then not be the one online.
                self._store.provider.ingest_df(self._store.get_feature_view(name), frame.to_pandas())
            except sqlite3.Error as error:
                raise self._unavailable(error) from error
        return len(frame)

    @cached_property
    def _lake(self) -> "Lake":
        from feature_repo.lake import Lake

        return Lake(self._home / "lake")

    @cached_property
    def _log(self) -> "Materializations":
        from feature_repo.materializations import Materializations

        return Materializations(self._home / "feast")

    def _open(self, versions: dict[str, int]) -> Any:
        from feast import FeatureStore as Feast
        from feast.repo_config import RepoConfig

        feast = self._home / "feast"
        return Feast(
            config=RepoConfig(
                project="perennial",
                provider="local",
                registry={"path": str(feast / "registry.db"), "cache_ttl_seconds": 0},
                online_store={"type": "sqlite", "path": str(feast / "online.db")},
                offline_store={
                    "type": "feature_repo.offline_store.LakeOfflineStore",
                    "lake": str(self._home / "lake"),
                    "versions": versions,
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


def judge_ages(problem: Problem, answer: Mapping[str, list[Any]], index: int, at: datetime) -> OnlineVector:
    """Return row `index` of the newest values that there are, judged at an instant.

    answer  feature -> values, and feature__ts -> the seconds since 1970 of each one's tick, or 0
    """
    values: dict[str, float | None] = {}
    missing: list[str] = []
    expired: dict[str, float] = {}
    now = at.timestamp()
    for table in problem.feature_tables:
        ttl = table.ttl.total_seconds()
        for name in table.features:
            value, stamp = answer[name][index], answer[f"{name}__ts"][index]
            age = now - stamp
            if stamp <= 0:
                missing.append(name)
                value = None
            elif not 0 <= age <= ttl:
                expired[name] = age
                value = None
            values[name] = None if value is None or math.isnan(value) else float(value)
    return OnlineVector(values, tuple(missing), expired)
