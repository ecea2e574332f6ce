"""Predictions, outcomes and dead letters, durable in SQLite before anyone is answered.

One thread writes. Whatever waits when it gets to work shares one transaction and one sync to disk, so
that a hundred requests at once cost what one does. Worker processes share the file.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import polars as pl

from feature_repo.contract import Period
from feature_repo.errors import JournalUnavailable

KEEP_DEAD_LETTERS = 100_000
MAX_WAITING = 10_000  # batches; beyond it the disk does not keep up and callers are told at once
MAX_GROUP = 500  # batches that share a transaction
BUSY_SECONDS = 5.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    prediction_id TEXT PRIMARY KEY, entity TEXT NOT NULL,
    requested_at TEXT NOT NULL, received_at TEXT NOT NULL, model_version TEXT,
    served_by TEXT NOT NULL, reason TEXT NOT NULL, score REAL NOT NULL,
    features TEXT NOT NULL, flags TEXT NOT NULL, request TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS predictions_requested_at ON predictions (requested_at);
CREATE TABLE IF NOT EXISTS outcomes (
    outcome_id INTEGER PRIMARY KEY, entity TEXT, prediction_id TEXT, outcome REAL, status TEXT NOT NULL,
    observed_at TEXT NOT NULL, received_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS outcomes_observed_at ON outcomes (observed_at);
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, reason TEXT NOT NULL, request TEXT NOT NULL,
    model_version TEXT, received_at TEXT NOT NULL
);
"""
NUMBERS = {"score": pl.Float64, "outcome": pl.Float64, "outcome_id": pl.Int64, "id": pl.Int64}
COLUMNS = {
    "predictions": (
        *("prediction_id", "entity", "requested_at", "received_at", "model_version", "served_by", "reason"),
        *("score", "features", "flags", "request"),
    ),
    "outcomes": (
        *("outcome_id", "entity", "prediction_id", "outcome", "status", "observed_at", "received_at"),
    ),
    "dead_letters": ("id", "kind", "reason", "request", "model_version", "received_at"),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered prediction; `features`, `flags` and `request` are JSON, instants ISO 8601 in UTC."""

    prediction_id: str
    entity: str
    requested_at: str
    received_at: str
    model_version: str | None
    served_by: str
    reason: str
    score: float
    features: str
    flags: str
    request: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one thing ended, as a client told it; `outcome` is null if it never came to an end."""

    entity: str | None
    prediction_id: str | None
    outcome: float | None
    status: str
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that was refused, or answered on inputs that the model does not know."""

    kind: str
    reason: str
    request: str
    model_version: str | None
    received_at: str


def format_instant(instant: datetime) -> str:
    """Return the instant as text that sorts as time does."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True)
class _Job:
    write: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Journal:
    """The journal in one file. Opened by the first write; reading needs no opening."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, predictions: Sequence[Prediction], dead_letters: Sequence[DeadLetter] = ()
    ) -> "Future[None]":
        """Hand over records; the future is done once they are on disk, or raises JournalUnavailable."""

        def write(connection: sqlite3.Connection) -> None:
            _insert(connection, "predictions", Prediction, predictions)
            _insert(connection, "dead_letters", DeadLetter, dead_letters)
            if dead_letters:
                oldest = "(SELECT max(id) FROM dead_letters) - ?"
                connection.execute(f"DELETE FROM dead_letters WHERE id <= {oldest}", (KEEP_DEAD_LETTERS,))  # noqa: S608

        return self._enqueue(write)

    def append(self, predictions: Sequence[Prediction], dead_letters: Sequence[DeadLetter] = ()) -> None:
        """Write records; return once they are on disk. Raises JournalUnavailable."""
        self.submit(predictions, dead_letters).result()

    def submit_outcomes(self, outcomes: Sequence[Outcome]) -> "Future[list[int]]":
        """Hand over outcomes; the future gives their ids once they are on disk."""

        def write(connection: sqlite3.Connection) -> list[int]:
            now = format_instant(datetime.now(UTC))
            return [_insert_outcome(connection, outcome, now) for outcome in outcomes]

        return self._enqueue(write)

    def check(self) -> None:
        """Return if a prediction could be written now. Raises JournalUnavailable."""
        self._enqueue(lambda connection: None).result()

    def read_predictions(self, period: Period) -> pl.DataFrame:
        """Return predictions by `requested_at`, oldest first."""
        return self._read("predictions", "requested_at", period)

    def find_prediction(self, prediction_id: str) -> Prediction | None:
        """Return one prediction, or None."""
        names = ", ".join(COLUMNS["predictions"])
        query = f"SELECT {names} FROM predictions WHERE prediction_id = ?"  # noqa: S608
        rows = self._select(query, (prediction_id,))
        return Prediction(*rows[0]) if rows else None

    def sample_predictions(self, period: Period, size: int) -> list[Prediction]:
        """Return at most `size` predictions by `requested_at`, picked at random, the same ones every time."""
        names = ", ".join(COLUMNS["predictions"])
        # An id ends in random digits, which order nothing but chance.
        query = (
            f"SELECT {names} FROM predictions WHERE requested_at >= ? AND requested_at < ?"  # noqa: S608
            " ORDER BY substr(prediction_id, -12) LIMIT ?"
        )
        bounds = (format_instant(period.since), format_instant(period.until))
        return [Prediction(*row) for row in self._select(query, (*bounds, size))]

    def read_outcomes(self, period: Period) -> pl.DataFrame:
        """Return outcomes by `observed_at`, oldest first."""
        return self._read("outcomes", "observed_at", period)

    def read_dead_letters(self, period: Period) -> pl.DataFrame:
        """Return dead letters by `received_at`, which is wall-clock time, oldest first."""
        return self._read("dead_letters", "received_at", period)

    def close(self) -> None:
        """Write what waits and end the writer."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread:
            self._jobs.put(None)
            thread.join()

    def _read(self, table: str, by: str, period: Period) -> pl.DataFrame:
        schema = {name: NUMBERS.get(name, pl.String) for name in COLUMNS[table]}
        bounds = (format_instant(period.since), format_instant(period.until))
        names = ", ".join(schema)
        query = f"SELECT {names} FROM {table} WHERE {by} >= ? AND {by} < ? ORDER BY {by}, {names}"  # noqa: S608
        return pl.DataFrame(self._select(query, bounds), schema=schema, orient="row")

    def _select(self, query: str, given: Sequence[Any]) -> list[Any]:
        if not self._path.exists():
            return []
        try:
            with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS)) as connection:
                return connection.execute(query, given).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _enqueue(self, write: Callable[[sqlite3.Connection], Any]) -> "Future[Any]":
        done: Future[Any] = Future()
        if self._jobs.qsize() >= MAX_WAITING:
            done.set_exception(self._unavailable(f"{MAX_WAITING} batches waiting for the disk"))
            return done
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()
            self._jobs.put(_Job(write, done))
        return done

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            group, last = [job], False
            with suppress(queue.Empty):
                while len(group) < MAX_GROUP and not last:
                    following = self._jobs.get_nowait()
                    last = following is None
                    group += [following] if following else []
            self._commit(group)
            if last:
                break
        self._disconnect()

    def _commit(self, group: list[_Job]) -> None:
        # A caller that gave up while it waited is told nothing; its records are written all the same.
        for job in group:
            if not job.done.running() and not job.done.cancelled():
                job.done.set_running_or_notify_cancel()
        try:
            results = self._transact(group)
        except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
            self._disconnect()
            if len(group) > 1 and not isinstance(error, sqlite3.OperationalError):
                for job in group:  # one bad record must not fail the others
                    self._commit([job])
                return
            for job in group:
                if not job.done.cancelled():
                    job.done.set_exception(self._unavailable(error))
            return
        for job, result in zip(group, results, strict=True):
            if not job.done.cancelled():
                job.done.set_result(result)

    def _transact(self, group: list[_Job]) -> list[Any]:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        results = [job.write(connection) for job in group]
        connection.execute("COMMIT")
        return results

    def _connect(self) -> sqlite3.Connection:
        # A file that was deleted under an open connection still takes writes, and nobody reads them again.
        if self._connection and not (self._path.exists() and self._path.stat().st_ino == self._inode):
            self._disconnect()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _open(self._path)
            self._inode = self._path.stat().st_ino
        return self._connection

    def _disconnect(self) -> None:
        if self._connection:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _unavailable(self, error: object) -> JournalUnavailable:
        kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
        return JournalUnavailable(
            f"journal {self._path}",
            got=f"{kind}{error}",
            expected="a file that takes writes",
            next_step="Look at the disk's space and the file's permissions.",
        )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            # Turning WAL on takes the whole file and does not wait for others that do the same.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(SCHEMA)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            connection.close()
            raise
        return connection


def _insert(connection: sqlite3.Connection, table: str, kind: type[Any], records: Iterable[Any]) -> None:
    names = [field.name for field in fields(kind)]
    marks = ", ".join("?" * len(names))
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608
    connection.executemany(sql, [astuple(record) for record in records])


def _insert_outcome(connection: sqlite3.Connection, outcome: Outcome, now: str) -> int:
    known = "(SELECT entity FROM predictions WHERE prediction_id = ?)"
    columns = "entity, prediction_id, outcome, status, observed_at, received_at"
    sql = f"INSERT INTO outcomes ({columns}) VALUES (coalesce(?, {known}), ?, ?, ?, ?, ?)"  # noqa: S608
    told = (outcome.entity, outcome.prediction_id, outcome.prediction_id, outcome.outcome, outcome.status)
    return int(connection.execute(sql, (*told, format_instant(outcome.observed_at), now)).lastrowid or 0)
