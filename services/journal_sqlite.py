"""The journal's tables in one SQLite file, with `journal_statements.py`; see Tables for what is promised.

Why not SQLite's defaults: workers that wait for its write lock sleep, longer each time, and some wait for
seconds; a lock of the system wakes them in turn. The write-ahead log is synced by us after that lock was
given back, so that the others write meanwhile, and it is moved into the file beside the writing.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from feature_repo.contract import Period
from feature_repo.errors import JournalUnavailable
from services.journal_records import (
    LETTER,
    PREDICTION,
    Batch,
    KeptLetter,
    LetterFilter,
    Mark,
    News,
    Prediction,
    format_instant,
)
from services.journal_statements import IN_PERIOD, NEWS, ROWS, insert_predictions, insert_rest, prepare

Given = Sequence[Any] | Mapping[str, Any]

BUSY_SECONDS = 5.0
WAL_BYTES = 64 * 1024 * 1024  # what the log may keep of the disk after a burst
TRIES = 50  # a millisecond apart, to get a turn for tidying: it may wait for a better moment
REPLACED = 3  # times in a row that the file may be another one when it is to be written
SETTINGS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",  # sync() does what FULL would do in the middle of everybody's turn
    "wal_autocheckpoint=0",  # tidy() does it
    f"journal_size_limit={WAL_BYTES}",
)


class SqliteTables:
    """The tables of one file; written by one thread, read and tidied by any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)
        self._connection: sqlite3.Connection | None = None
        self._log_name = f"{path}-wal"
        self._inode = self._log_inode = -1
        self._log = -1  # the write-ahead log, open to be synced
        self._lock = -1
        self._doubtful = False  # a sync failed: what the log holds may not be on disk

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the lock that processes share; opens the file if need be."""
        with self._telling():
            lock = self._take_lock()
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def insert(self, batches: Sequence[Batch]) -> list[list[int]]:
        """Write all batches or none; only within a turn."""
        with self._telling():
            connection = self._connection
            if connection is None:
                raise sqlite3.OperationalError("nothing is open: a turn opens it")
            if self._doubtful:
                self._settle_doubt(connection)
            values = list(chain.from_iterable(chain.from_iterable(batch.predictions for batch in batches)))
            rows = len(values) // len(PREDICTION)
            more = any(any(batch[1:]) for batch in batches)
            if 0 < rows <= ROWS and not more:
                insert_predictions(connection, values)  # one statement: a transaction by itself
                return [[] for _ in batches]
            with _transaction(connection):
                insert_predictions(connection, values)
                return [insert_rest(connection, batch) if more else [] for batch in batches]

    def sync(self) -> bool:
        """Sync the write-ahead log; return False if it is not the one any more that is read."""
        with self._telling():
            try:
                os.fdatasync(self._log)
            except OSError:
                self._doubtful = True
                raise
            return self._is_read()

    def tidy(self) -> None:
        """Move the write-ahead log into the file, so that it starts again and keeps its size."""
        with self._telling(), closing(self._open_to("rw", 0.0)) as connection:
            # First most of it, beside the writers; then the rest, which is little, while they wait.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with suppress(BlockingIOError), _locked(self._lock_path, TRIES):
                connection.execute("PRAGMA wal_checkpoint(RESTART)")

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._connection:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        for descriptor in (self._log, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._lock = -1

    def read(self, table: str, by: str, period: Period, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return these columns of a table's rows of a period."""
        names = ", ".join(columns)
        within = IN_PERIOD if by == "requested_at" else f"{by} >= :since AND {by} < :until"
        query = f"SELECT {names} FROM {table} WHERE {within} ORDER BY {by}, {names}"  # noqa: S608
        return self._select(query, _bounds(period))

    def find_prediction(self, prediction_id: str) -> Prediction | None:
        """Return one prediction, or None."""
        query = f"SELECT {', '.join(PREDICTION)} FROM predictions WHERE prediction_id = ?"  # noqa: S608
        rows = self._select(query, (prediction_id,))
        return Prediction(*rows[0]) if rows else None

    def sample_predictions(self, period: Period, size: int) -> list[Prediction]:
        """Return at most `size` predictions of a period."""
        # An id ends in random digits, which order nothing but chance.
        query = (
            f"SELECT {', '.join(PREDICTION)} FROM predictions WHERE {IN_PERIOD}"  # noqa: S608
            " ORDER BY substr(prediction_id, -12) LIMIT :size"
        )
        return [Prediction(*row) for row in self._select(query, {**_bounds(period), "size": size})]

    def find_dead_letters(self, wanted: LetterFilter) -> list[KeptLetter]:
        """Return dead letters, oldest first."""
        asked: dict[str, Sequence[Any]] = {
            "kind = ?": (wanted.kind,) if wanted.kind else (),
            "received_at >= ?": (wanted.since,) if wanted.since else (),
            f"id IN ({', '.join('?' * len(wanted.ids))})": wanted.ids,
        }
        terms = [term for term, values in asked.items() if values]
        terms += ["replayed_at IS NULL"] if wanted.waiting else []
        names = ", ".join(("id", *LETTER, "replayed_at", "answered"))
        query = f"SELECT {names} FROM dead_letters WHERE {' AND '.join(terms) or 'true'}"  # noqa: S608
        query += f" ORDER BY {'random()' if wanted.sampled else 'id DESC'} LIMIT ?"
        given = [*chain.from_iterable(asked.values()), -1 if wanted.limit is None else wanted.limit]
        return sorted(
            (KeptLetter(*row) for row in self._select(query, given, prepared=True)), key=lambda kept: kept.id
        )

    def find_news(self, after: Mark) -> News:
        """Return what was written after a mark."""
        found = []
        for (table, (key, at)), mark in zip(NEWS.items(), after, strict=True):
            top = self._select(f"SELECT max({key}) FROM {table}", ())  # noqa: S608
            newest = int((top[0][0] if top else 0) or 0)
            query = f"SELECT min({at}) FROM {table} WHERE {key} > ? AND {key} <= ?"  # noqa: S608
            # A mark beyond the newest row is another journal's: this one is told from its start.
            rows = self._select(query, (mark if mark <= newest else 0, newest))
            found.append((newest, rows[0][0] if rows else None))
        return News(Mark(*(newest for newest, _ in found)), min((at for _, at in found if at), default=None))

    def list_answered(self) -> list[str]:
        """Return, of each letter that was sent again, what was answered: a JSON list of ids."""
        rows = self._select("SELECT answered FROM dead_letters WHERE answered IS NOT NULL", (), prepared=True)
        return [row[0] for row in rows]

    def count_dead_letters(self) -> list[tuple[str, str, int, int]]:
        """Return day, kind, how many, and how many of these were replayed."""
        query = "SELECT substr(received_at, 1, 10), kind, count(*), count(replayed_at) FROM dead_letters"
        return self._select(f"{query} GROUP BY 1, 2 ORDER BY 1, 2", (), prepared=True)

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}-lock")

    def _select(self, query: str, given: Given, *, prepared: bool = False) -> list[Any]:
        if not self._path.exists():
            return []
        with self._telling(), closing(self._open_to("rw", BUSY_SECONDS)) as connection:
            if prepared:  # no writer of today may have opened a file of before
                prepare(connection)
            return connection.execute(query, given).fetchall()

    def _take_lock(self) -> int:
        for _ in range(REPLACED):
            self._reach()
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self._is_read():  # asked only now: the lock may have taken seconds
                return self._lock
            self.close()
        raise OSError(f"a file that was replaced {REPLACED} times while it was opened")

    def _is_read(self) -> bool:
        # A file that was deleted under an open connection still takes writes, and nobody reads them again.
        return _identify(self._name) == self._inode and _identify(self._log_name) == self._log_inode

    def _reach(self) -> None:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._lock_path):
                self._connection = self._open_to("rwc", BUSY_SECONDS)
                for setting in SETTINGS:
                    self._connection.execute(f"PRAGMA {setting}")
                prepare(self._connection)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            self._log = os.open(self._log_name, os.O_RDWR)
            self._inode, self._log_inode = _identify(self._name), _identify(self._log_name)

    def _open_to(self, mode: str, timeout: float) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, timeout=timeout, isolation_level=None, uri=True)

    def _settle_doubt(self, connection: sqlite3.Connection) -> None:
        # After a failed sync the system may take lost pages for written ones: nothing is acknowledged
        # before all that the log holds went into the file.
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        if busy:
            raise sqlite3.OperationalError("a sync failed, and the log cannot be moved into the file yet")
        self._doubtful = False

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError):
            raise  # a record's own fault
        except (sqlite3.DatabaseError, OSError) as error:
            raise unavailable(self._path, error) from error


def unavailable(path: object, error: object) -> JournalUnavailable:
    """Return the error that callers get."""
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return JournalUnavailable(
        f"journal {path}",
        got=f"{kind}{error}",
        expected="a file that takes writes",
        next_step="Look at the disk's space and the file's permissions.",
    )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def _locked(path: Path, tries: int = 0) -> Iterator[None]:
    """Hold the lock; with `tries`, raise BlockingIOError if it is never free."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for _ in range(tries - 1):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.001)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if tries else 0))
        yield
    finally:
        os.close(descriptor)


def _identify(path: str) -> int:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - before each transaction: a Path takes ten times as long
    except FileNotFoundError:
        return -1


def _bounds(period: Period) -> dict[str, str]:
    return {"since": format_instant(period.since), "until": format_instant(period.until)}
