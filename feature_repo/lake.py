"""The lake: versioned tables, one atomic commit at a time. The only caller of the table format (Delta).

A table is a folder of Parquet files and a transaction log. Every commit makes a new version, and old
ones stay readable. A snapshot is a set of table versions with one id.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from feature_repo.contract import Period
from feature_repo.errors import LakeBusy, NotEnoughData

Closed = Literal["left", "right"]
# The log of versions is kept for good; which versions keep their files, `vacuum` is told.
CONFIGURATION: Mapping[str, str | None] = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.checkpointInterval": "50",
}
# Row groups of about ten weeks of flights: a month is read from a year's one file as fast as from many.
PACKED = WriterProperties(compression="ZSTD", max_row_group_size=65_536)
SMALL_FILES = 16  # so many files of a table are worth rewriting as one
COMMIT = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True)
class Snapshot:
    """A set of table versions; `id` is the hash of their names and numbers."""

    id: str
    versions: Mapping[str, int]

    @classmethod
    def of(cls, versions: Mapping[str, int]) -> "Snapshot":
        """Return the snapshot of these table versions."""
        ordered = dict(sorted(versions.items()))
        return cls(hashlib.sha256(json.dumps(ordered).encode()).hexdigest()[:16], ordered)


class Lake:
    """Tables under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def replace(
        self,
        table: str,
        frame: pl.DataFrame,
        period: Period,
        by: str,
        closed: Closed = "left",
        origin: Mapping[str, str] | None = None,
    ) -> int:
        """Make `frame` the table's rows whose `by` (an instant) falls in the period; return the version.

        `closed` says which end belongs to the period: "left" for [since, until), "right" for ticks. One
        commit: after a kill the table is as before or as after. A replacement by the same rows commits
        nothing. `origin` is kept with the commit. Raises LakeBusy if another writer changed the same rows
        meanwhile.
        """
        within = pl.col(by).is_between(period.since, period.until, closed=closed)
        if not frame.select(within.all()).item():
            raise ValueError(f"{table}: rows to write have {by} outside {period}")
        before = self.read(table, period, by, closed=closed)
        if len(before) == len(frame) and content_hash(before) == content_hash(frame):
            return self.version(table)
        after, upto = (">=", "<") if closed == "left" else (">", "<=")
        predicate = f"{by} {after} {_literal(period.since)} AND {by} {upto} {_literal(period.until)}"
        return self._write(table, frame, predicate if self.has(table) else None, origin)

    def replace_where(self, table: str, frame: pl.DataFrame, column: str, value: str) -> int:
        """Make `frame` the table's rows whose text `column` equals `value`; return the version.

        Columns that the table lacks are added to it, null in its other rows.
        """
        before = self.read(table)
        before = before.filter(pl.col(column) == value) if len(before) else before
        if len(before) == len(frame) and content_hash(before) == content_hash(frame):
            return self.version(table)
        quoted = value.replace("'", "''")
        predicate = f"{column} = '{quoted}'" if self.has(table) else None
        return self._write(table, frame, predicate, widen=bool({*frame.columns} - {*before.columns}))

    def read(
        self,
        table: str,
        period: Period | None = None,
        by: str = "known_at",
        version: int | None = None,
        closed: Closed = "left",
    ) -> pl.DataFrame:
        """Return the rows whose `by` falls in the period, or all; an empty frame if there is no table.

        Raises NotEnoughData if the version's files have been vacuumed.
        """
        if not self.has(table):
            return pl.DataFrame()
        scan = pl.scan_delta(str(self._path(table)), version=version)
        if period is not None:
            scan = scan.filter(pl.col(by).is_between(period.since, period.until, closed=closed))
        try:
            return scan.collect()
        except FileNotFoundError as error:
            raise NotEnoughData(
                f"version {self.version(table) if version is None else version} of {table}",
                got=f"a file that is gone: {error}",
                expected="all of its files",
                next_step="Retention dropped what nothing needed any more, or the folder was damaged.",
            ) from error

    def has(self, table: str) -> bool:
        """Tell whether the table was ever written."""
        return (self._path(table) / "_delta_log").is_dir() and DeltaTable.is_deltatable(
            str(self._path(table))
        )

    def version(self, table: str) -> int:
        """Return the table's newest version, or -1 if there is no table."""
        # By the names of the commits: opening the table to learn its version costs a hundred times as much.
        log = self._path(table) / "_delta_log"
        found = [COMMIT.fullmatch(path.name) for path in (log.iterdir() if log.is_dir() else ())]
        return max((int(name[1]) for name in found if name), default=-1)

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

    def current(self, tables: Iterable[str]) -> Snapshot:
        """Return the tables' newest versions under one id, without keeping it."""
        return Snapshot.of({table: self.version(table) for table in tables})

    def snapshot(self, tables: Iterable[str]) -> Snapshot:
        """Record the tables' newest versions under one id and return them. Safe to repeat."""
        snapshot = self.current(tables)
        # Written anew even if it is there: its age says when it was taken last.
        write_atomically(self._snapshot_file(snapshot.id), json.dumps(dict(snapshot.versions)))
        return snapshot

    def load_snapshot(self, snapshot_id: str) -> Snapshot:
        """Return the snapshot of that id. Raises NotEnoughData if there is none."""
        file = self._snapshot_file(snapshot_id)
        if not file.is_file():
            raise NotEnoughData(
                f"snapshot {snapshot_id} of {self.root}",
                got="no record of it",
                expected=f"a file {file}",
                next_step="Look whether this is the home that it was taken on; unneeded ones are dropped.",
            )
        return Snapshot(snapshot_id, json.loads(file.read_text()))

    def snapshots(self) -> dict[str, datetime]:
        """Return the ids of all recorded snapshots, and when each was taken last."""
        files = (self.root / "_snapshots").glob("*.json")
        return {file.stem: datetime.fromtimestamp(file.stat().st_mtime, UTC) for file in files}

    def drop_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot; what it named may be vacuumed from then on."""
        self._snapshot_file(snapshot_id).unlink(missing_ok=True)

    def history(
        self, table: str, version: int | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the table's commits up to a version, newest first, at most `limit`, with each `origin`."""
        if not self.has(table):
            return []
        commits = DeltaTable(str(self._path(table))).history()
        known = [commit for commit in commits if version is None or commit["version"] <= version]
        return known[:limit]

    def count_files(self, table: str) -> int:
        """Return how many files the newest version of a table is made of."""
        return len(DeltaTable(str(self._path(table))).file_uris())

    def measure(self, table: str) -> tuple[int, int]:
        """Return how many data files of a table lie on disk, needed or not, and their bytes."""
        sizes = [file.stat().st_size for file in self._path(table).glob("*.parquet")]
        return len(sizes), sum(sizes)

    def compact(self, table: str, small_files: int = SMALL_FILES) -> bool:
        """Rewrite a table of many files as few, in one commit; return whether there was anything to do.

        The rows stay the same, and so does every older version. Raises LakeBusy.
        """
        if self.count_files(table) < small_files:
            return False
        delta = DeltaTable(str(self._path(table)))
        with _committing(table):
            done = delta.optimize.compact(writer_properties=PACKED)
        return bool(done["numFilesRemoved"])

    def vacuum(self, table: str, keep: Collection[int], hours: int) -> int:
        """Delete the data files that neither a version to `keep` nor the newest needs; return how many.

        A file that was removed, or left behind by a kill, less than `hours` ago stays: somebody may be
        reading or writing it. The other versions cannot be read any more.
        """
        newest = self.version(table)
        kept = sorted({newest, *(version for version in keep if 0 <= version <= newest)})
        delta = DeltaTable(str(self._path(table)))
        # A checkpoint first, so that opening the table does not read every commit there ever was.
        delta.create_checkpoint()
        asked = {"retention_hours": hours, "enforce_retention_duration": False, "keep_versions": kept}
        # It names files that an earlier vacuum deleted as well, and would commit for those alone.
        listed = delta.vacuum(**asked, full=True, dry_run=True)
        there = [file for file in listed if (self._path(table) / file).is_file()]
        if there:
            with _committing(table):
                delta.vacuum(**asked, full=True, dry_run=False)
        return len(there)

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

    def _write(
        self,
        table: str,
        frame: pl.DataFrame,
        predicate: str | None,
        origin: Mapping[str, str] | None = None,
        *,
        widen: bool = False,
    ) -> int:
        path = self._path(table)
        path.mkdir(parents=True, exist_ok=True)
        with _committing(table):
            write_deltalake(
                str(path),
                frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
                mode="overwrite",
                predicate=predicate,
                schema_mode="merge" if widen else None,
                configuration=CONFIGURATION,
                writer_properties=PACKED,
                commit_properties=CommitProperties(custom_metadata=dict(origin or {})),
            )
        return self.version(table)

    def _snapshot_file(self, snapshot_id: str) -> Path:
        return self.root / "_snapshots" / f"{snapshot_id}.json"

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


@contextmanager
def _committing(table: str) -> Iterator[None]:
    try:
        yield
    except CommitFailedError as error:
        raise LakeBusy(
            table, got=str(error), expected="no other writer", next_step="Run the same period again."
        ) from error


def _literal(instant: datetime) -> str:
    return f"'{instant.astimezone(UTC).isoformat(timespec='microseconds')}'"
