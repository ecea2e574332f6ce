"""The lake: versioned tables, one atomic commit at a time. The only caller of the table format (Delta).

A table is a folder of Parquet files and a transaction log. Every commit makes a new version, and old
ones stay readable. A snapshot is a set of table versions with one id.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from feature_repo.contract import Period
from feature_repo.errors import LakeBusy

Closed = Literal["left", "right"]
# Versions are kept for good: a snapshot may name any of them.
CONFIGURATION: Mapping[str, str | None] = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.checkpointInterval": "50",
}


@dataclass(frozen=True)
class Snapshot:
    """A set of table versions; `id` is the hash of their names and numbers."""

    id: str
    versions: Mapping[str, int]


class Lake:
    """Tables under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def replace(
        self, table: str, frame: pl.DataFrame, period: Period, by: str, closed: Closed = "left"
    ) -> int:
        """Make `frame` the table's rows whose `by` (an instant) falls in the period; return the version.

        `closed` says which end belongs to the period: "left" for [since, until), "right" for ticks. One
        commit: after a kill the table is as before or as after. A replacement by the same rows commits
        nothing. Raises LakeBusy if another writer changed the same rows meanwhile.
        """
        within = pl.col(by).is_between(period.since, period.until, closed=closed)
        if not frame.select(within.all()).item():
            raise ValueError(f"{table}: rows to write have {by} outside {period}")
        before = self.read(table, period, by, closed=closed)
        if len(before) == len(frame) and content_hash(before) == content_hash(frame):
            return self.version(table)
        after, upto = (">=", "<") if closed == "left" else (">", "<=")
        predicate = f"{by} {after} {_literal(period.since)} AND {by} {upto} {_literal(period.until)}"
        return self._write(table, frame, mode="overwrite", predicate=predicate if self.has(table) else None)

    def replace_where(self, table: str, frame: pl.DataFrame, column: str, value: str) -> int:
        """Make `frame` the table's rows whose text `column` equals `value`; return the version."""
        before = self.read(table)
        before = before.filter(pl.col(column) == value) if len(before) else before
        if len(before) == len(frame) and content_hash(before) == content_hash(frame):
            return self.version(table)
        quoted = value.replace("'", "''")
        predicate = f"{column} = '{quoted}'" if self.has(table) else None
        return self._write(table, frame, mode="overwrite", predicate=predicate)

    def read(
        self,
        table: str,
        period: Period | None = None,
        by: str = "known_at",
        version: int | None = None,
        closed: Closed = "left",
    ) -> pl.DataFrame:
        """Return the rows whose `by` falls in the period, or all; an empty frame if there is no table."""
        if not self.has(table):
            return pl.DataFrame()
        scan = pl.scan_delta(str(self._path(table)), version=version)
        if period is not None:
            scan = scan.filter(pl.col(by).is_between(period.since, period.until, closed=closed))
        return scan.collect()

    def has(self, table: str) -> bool:
        """Tell whether the table was ever written."""
        return (self._path(table) / "_delta_log").is_dir() and DeltaTable.is_deltatable(
            str(self._path(table))
        )

    def version(self, table: str) -> int:
        """Return the table's newest version, or -1 if there is no table."""
        return DeltaTable(str(self._path(table))).version() if self.has(table) else -1

    def can_read(self, table: str, version: int) -> bool:
        """Tell whether every file of that version of the table is still there."""
        if version < 0 or not self.has(table) or version > self.version(table):
            return False
        path = self._path(table)
        try:
            files = DeltaTable(str(path), version=version).file_uris()
        except DeltaError:
            return False
        return all(Path(file).is_file() for file in files)

    def latest(self, table: str, by: str) -> datetime | None:
        """Return the greatest `by` in the table, or None."""
        if not self.has(table):
            return None
        newest = pl.scan_delta(str(self._path(table))).select(pl.col(by).max()).collect().item()
        assert newest is None or isinstance(newest, datetime)
        return newest

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        return [folder.name for folder in folders if self.has(folder.name)]

    def hashes(self) -> dict[str, str]:
        """Return each table's content hash: equal for equal rows, whatever commits led there."""
        return {table: content_hash(self.read(table)) for table in self.tables()}

    def snapshot(self, tables: Iterable[str]) -> Snapshot:
        """Record the tables' versions under one id and return them."""
        versions = {table: self.version(table) for table in sorted(tables)}
        text = json.dumps(versions, sort_keys=True)
        snapshot = Snapshot(hashlib.sha256(text.encode()).hexdigest()[:16], versions)
        write_atomically(self.root / "_snapshots" / f"{snapshot.id}.json", text)
        return snapshot

    def load_snapshot(self, snapshot_id: str) -> Snapshot:
        """Return the snapshot of that id."""
        text = (self.root / "_snapshots" / f"{snapshot_id}.json").read_text()
        return Snapshot(snapshot_id, json.loads(text))

    @contextmanager
    def writer(self, what: str) -> Iterator[None]:
        """Hold the lake's one writer lock; it falls with the process. Raises LakeBusy if it is held."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "_writer.lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise LakeBusy(
                    f"{what} on {self.root}",
                    got=f"a lock held by {lock.read().strip() or 'another process'}",
                    expected="no other writer",
                    next_step="Wait for it to end; nothing was written.",
                ) from None
            lock.truncate(0)
            lock.write(f"{what} (pid {os.getpid()})")
            lock.flush()
            yield

    def _write(self, table: str, frame: pl.DataFrame, mode: str, predicate: str | None) -> int:
        path = self._path(table)
        path.mkdir(parents=True, exist_ok=True)
        try:
            write_deltalake(
                str(path),
                frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
                mode=mode,
                predicate=predicate,
                configuration=CONFIGURATION,
                writer_properties=WriterProperties(compression="ZSTD"),
            )
        except CommitFailedError as error:
            raise LakeBusy(
                table, got=str(error), expected="no other writer", next_step="Run the same period again."
            ) from error
        return self.version(table)

    def _path(self, table: str) -> Path:
        return self.root / table


def content_hash(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame's rows, whatever the order of its rows and columns."""
    ordered = frame.select(sorted(frame.columns))
    ordered = ordered.sort(pl.all(), nulls_last=True) if ordered.width else ordered
    header = ",".join(f"{name}:{kind}" for name, kind in ordered.schema.items())
    return hashlib.sha256((header + "\n" + ordered.write_csv(include_header=False)).encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _literal(instant: datetime) -> str:
    return f"'{instant.astimezone(UTC).isoformat(timespec='microseconds')}'"
