"""What was written to the online store, when, and from which versions of the feature tables.

One row a write, durable before the store is touched and closed when all of it is there, so that an old
answer's features can be read back from the lake. A row that was never closed: a kill came between.
"""

import fcntl
import json
import sqlite3
import weakref
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.lake import Snapshot

SCHEMA = """
CREATE TABLE IF NOT EXISTS materializations (
    id INTEGER PRIMARY KEY, started_at TEXT NOT NULL, ended_at TEXT, since TEXT, until TEXT NOT NULL,
    snapshot TEXT NOT NULL, versions TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Materialization:
    """One write: of each table in `versions`, every key's newest row with a tick in (since, until].

    started_at, ended_at  wall-clock time; `ended_at` is None if it was killed, or goes on
    since                 None: the newest rows up to `until` whatever their tick, over what was there
    """

    id: int
    started_at: datetime
    ended_at: datetime | None
    since: datetime | None
    until: datetime
    snapshot: Snapshot


class Materializations:
    """The log of writes to one online store, beside it. Writers wait for each other."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "materializations.db"
        self._lock = folder / "_online.lock"
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def writing(
        self, since: datetime | None, until: datetime, snapshot: Snapshot
    ) -> Iterator[datetime | None]:
        """Log a write around it, and give the newest tick written before. One writer at a time.

        The lock falls with the process.
        """
        told = (
            _text(since) if since else None,
            _text(until),
            snapshot.id,
            json.dumps(dict(snapshot.versions)),
        )
        names = "started_at, since, until, snapshot, versions"
        with self._locked():
            log = self._connect()
            before = _newest(log)
            insert = f"INSERT INTO materializations ({names}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
            log.execute("PRAGMA synchronous=FULL")
            row = log.execute(insert, (_now(), *told)).lastrowid
            yield before
            # Need not outlive a power cut: a write that was never closed is one that may have been done.
            log.execute("PRAGMA synchronous=NORMAL")
            log.execute("UPDATE materializations SET ended_at = ? WHERE id = ?", (_now(), row))

    def read(self) -> list[Materialization]:
        """Return all writes, in the order in which they were done."""
        if not self._path.exists():
            return []
        with closing(self._open()) as log:
            names = "id, started_at, ended_at, since, until, snapshot, versions"
            rows = log.execute(f"SELECT {names} FROM materializations ORDER BY id").fetchall()  # noqa: S608
        return [_to_record(*row) for row in rows]

    def newest_tick(self) -> datetime | None:
        """Return the newest tick up to which anything was ever written, or None."""
        if not self._path.exists():
            return None
        with closing(self._open()) as log:
            return _newest(log)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _connect(self) -> sqlite3.Connection:
        # Kept open: the last connection to close would sync all of the file, at every write.
        if self._connection is None or not self._path.exists():
            self._connection = self._open()
            weakref.finalize(self, self._connection.close)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        # The lock keeps threads apart.
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(SCHEMA)
        return connection


def _newest(log: sqlite3.Connection) -> datetime | None:
    newest = log.execute("SELECT max(until) FROM materializations").fetchone()[0]
    return datetime.fromisoformat(newest) if newest else None


def _to_record(
    number: int, started: str, ended: str | None, since: str | None, until: str, snapshot: str, versions: str
) -> Materialization:
    at = datetime.fromisoformat
    told: Mapping[str, int] = json.loads(versions)
    return Materialization(
        number,
        at(started),
        at(ended) if ended else None,
        at(since) if since else None,
        at(until),
        Snapshot(snapshot, told),
    )


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


def _now() -> str:
    return _text(datetime.now(UTC))
