"""The journal's SQL for SQLite: its tables, and how records are written into them."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from services.journal_records import LETTER, PREDICTION, Batch, DeadLetter, Outcome, format_instant

KEEP_DEAD_LETTERS = 100_000
KEEP_BYTES = 128 * 1024 * 1024  # of dead letters, and the rest of one more; the oldest go first
ROWS = 32  # a statement for each number of rows up to this: one call writes them all

# Predictions are found by the hour that they were asked for: those of one hour lie together, as they come.
# By the instant itself, a batch's entries lie all over the index: most of what a batch cost to write.
SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions (
    prediction_id TEXT PRIMARY KEY, entity TEXT NOT NULL,
    requested_at TEXT NOT NULL, received_at TEXT NOT NULL, model_version TEXT,
    served_by TEXT NOT NULL, reason TEXT NOT NULL, score REAL NOT NULL,
    features TEXT NOT NULL, flags TEXT NOT NULL, request TEXT NOT NULL
);
DROP INDEX IF EXISTS predictions_requested_at;
CREATE INDEX IF NOT EXISTS predictions_requested_hour ON predictions (substr(requested_at, 1, 13));
CREATE TABLE IF NOT EXISTS outcomes (
    outcome_id INTEGER PRIMARY KEY, entity TEXT, prediction_id TEXT, outcome REAL, status TEXT NOT NULL,
    observed_at TEXT NOT NULL, received_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS outcomes_observed_at ON outcomes (observed_at);
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, reason TEXT NOT NULL, request TEXT NOT NULL,
    model_version TEXT, received_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS shadow_scores (
    prediction_id TEXT NOT NULL, model_version TEXT NOT NULL, score REAL NOT NULL, scored_at TEXT NOT NULL,
    PRIMARY KEY (prediction_id, model_version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heartbeats (id INTEGER PRIMARY KEY CHECK (id = 1), at TEXT NOT NULL);
"""
# Later columns, for files of before too. `ends_at`: bytes of all letters ever, up to and with this one.
ADDED = {"ends_at": "INTEGER NOT NULL DEFAULT 0", "replayed_at": "TEXT", "answered": "TEXT"}
IN_PERIOD = (
    "requested_at >= :since AND requested_at < :until"
    " AND substr(requested_at, 1, 13) BETWEEN substr(:since, 1, 13) AND substr(:until, 1, 13)"
)
# What grows with each row of a table, and the instant that the row is about.
NEWS = {"outcomes": ("outcome_id", "observed_at"), "predictions": ("rowid", "requested_at")}
_MARKS = f"({', '.join('?' * len(PREDICTION))})"
# All or nothing by the transaction: undoing one statement alone would take a copy of each page it changes.
_PREDICTIONS = f"INSERT OR ROLLBACK INTO predictions ({', '.join(PREDICTION)}) VALUES "  # noqa: S608
INSERTS = [_PREDICTIONS + ", ".join([_MARKS] * rows) for rows in range(ROWS + 1)]
_KNOWN = "(SELECT entity FROM predictions WHERE prediction_id = ?)"
INSERT_OUTCOME = (
    "INSERT INTO outcomes (entity, prediction_id, outcome, status, observed_at, received_at)"  # noqa: S608
    f" VALUES (coalesce(?, {_KNOWN}), ?, ?, ?, ?, ?)"
)
INSERT_LETTER = f"INSERT INTO dead_letters ({', '.join(LETTER)}, ends_at) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
MARK_LETTER = "UPDATE dead_letters SET replayed_at = ?, answered = ? WHERE id = ? AND replayed_at IS NULL"
INSERT_HEARTBEAT = "INSERT OR REPLACE INTO heartbeats VALUES (1, ?)"
INSERT_SHADOW = "INSERT OR IGNORE INTO shadow_scores VALUES (?, ?, ?, ?)"
NEWEST_LETTER = "SELECT id, ends_at FROM dead_letters ORDER BY id DESC LIMIT 1"
DROP_BY_COUNT = "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?"
_FIRST_KEPT = "(SELECT id FROM dead_letters WHERE ends_at > ? ORDER BY id LIMIT 1)"
DROP_BY_BYTES = f"DELETE FROM dead_letters WHERE id < {_FIRST_KEPT}"  # noqa: S608
_letter_values = attrgetter(*LETTER)


def prepare(connection: sqlite3.Connection) -> None:
    """Make what is missing of the tables; nothing that is there changes."""
    connection.executescript(SCHEMA)
    there = {row[1] for row in connection.execute("PRAGMA table_info(dead_letters)")}
    for name, kind in ADDED.items():
        if name not in there:
            try:
                connection.execute(f"ALTER TABLE dead_letters ADD COLUMN {name} {kind}")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process was faster
                    raise


def insert_predictions(connection: sqlite3.Connection, values: Sequence[Any]) -> None:
    """Write predictions, given as one flat list, with as few calls as can be."""
    width = len(PREDICTION)
    for start in range(0, len(values), ROWS * width):
        some = values[start : start + ROWS * width]
        connection.execute(INSERTS[len(some) // width], some)


def insert_rest(connection: sqlite3.Connection, batch: Batch) -> list[int]:
    """Write what else is in a batch; return the ids of its outcomes, or of the letters that it marked."""
    if batch.dead_letters:
        _insert_letters(connection, batch.dead_letters)
    connection.executemany(INSERT_HEARTBEAT, batch.heartbeats)
    if batch.shadows:
        connection.executemany(INSERT_SHADOW, batch.shadows)
    now = format_instant(datetime.now(UTC)) if batch.outcomes else ""
    ids = [_insert_outcome(connection, outcome, now) for outcome in batch.outcomes]
    marked = [mark.letter_id for mark in batch.replayed if connection.execute(MARK_LETTER, mark).rowcount]
    return ids + marked


def _insert_letters(connection: sqlite3.Connection, letters: Sequence[DeadLetter]) -> None:
    newest = connection.execute(NEWEST_LETTER).fetchone()
    ends_at, rows = (newest[1] if newest else 0), []
    for letter in letters:
        ends_at += len(letter.request.encode()) + len(letter.reason.encode())
        rows.append((*_letter_values(letter), ends_at))
    connection.executemany(INSERT_LETTER, rows)
    connection.execute(DROP_BY_COUNT, (KEEP_DEAD_LETTERS,))
    connection.execute(DROP_BY_BYTES, (ends_at - KEEP_BYTES,))


def _insert_outcome(connection: sqlite3.Connection, outcome: Outcome, now: str) -> int:
    told = (outcome.entity, outcome.prediction_id, outcome.prediction_id, outcome.outcome, outcome.status)
    written = connection.execute(INSERT_OUTCOME, (*told, format_instant(outcome.observed_at), now))
    return int(written.lastrowid or 0)
