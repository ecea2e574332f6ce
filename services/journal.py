"""Predictions, outcomes and dead letters, durable before anyone is answered.

One thread writes. Whatever waits when its turn comes shares one transaction and one sync to disk, so that
a hundred requests at once cost what one does. Worker processes share the file.

If it cannot be made durable (a full disk, a file that is gone, a disk that does not answer for five
seconds), nothing is answered: callers get JournalUnavailable, clients 503 with Retry-After, and the next
write tries anew. What was acknowledged stays.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import polars as pl

from feature_repo.contract import Period
from services.journal_records import (
    COLUMNS,
    Batch,
    DeadLetter,
    Heartbeat,
    KeptLetter,
    LetterFilter,
    Mark,
    News,
    Outcome,
    Prediction,
    Replayed,
    ShadowScore,
    Tables,
    format_instant,
)
from services.journal_sqlite import BUSY_SECONDS, SqliteTables
from services.journal_writer import Writer

__all__ = [
    "BUSY_SECONDS",
    "COLUMNS",
    "DeadLetter",
    "Journal",
    "KeptLetter",
    "LetterFilter",
    "Mark",
    "News",
    "Outcome",
    "Prediction",
    "ShadowScore",
    "format_instant",
]

NUMBERS = {"score": pl.Float64, "outcome": pl.Float64, "outcome_id": pl.Int64, "id": pl.Int64}


class Journal:
    """The journal in one file. Opened by the first write; reading needs no opening."""

    def __init__(self, path: Path, tables: Tables | None = None) -> None:
        self._tables = tables or SqliteTables(path)
        self._writer = Writer(self._tables, path)

    @property
    def lag(self) -> tuple[int, float]:
        """Rows that wait for the disk, and for how many seconds the write under way has lasted."""
        return self._writer.lag

    def watch_commits(self, tell: Callable[[float], object]) -> None:
        """Have each write's seconds told, in the writer's thread."""
        self._writer.on_commit = tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, predictions: Sequence[Prediction], dead_letters: Sequence[DeadLetter] = ()
    ) -> "Future[Any]":
        """Hand over records; the future is done once they are on disk, or raises JournalUnavailable."""
        return self._submit(Batch(predictions, dead_letters))

    def write(
        self, predictions: Sequence[Prediction], dead_letters: Sequence[DeadLetter] = ()
    ) -> "asyncio.Future[Any]":
        """Do what `submit` does at the least cost: called in an event loop, awaited there."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._writer.put(Batch(predictions, dead_letters), done, loop)
        return done

    def append(self, predictions: Sequence[Prediction], dead_letters: Sequence[DeadLetter] = ()) -> None:
        """Write records; return once they are on disk. Raises JournalUnavailable."""
        self.submit(predictions, dead_letters).result()

    def submit_outcomes(self, outcomes: Sequence[Outcome]) -> "Future[list[int]]":
        """Hand over outcomes; the future gives their ids once they are on disk."""
        return self._submit(Batch(outcomes=outcomes))

    def submit_shadows(self, scores: Sequence[ShadowScore]) -> "Future[Any]":
        """Hand over a challenger's scores; a second one of a version for a prediction changes nothing."""
        return self._submit(Batch(shadows=scores))

    def read_shadows(self, period: Period) -> pl.DataFrame:
        """Return a challenger's scores by `scored_at`, which is wall-clock time, oldest first."""
        return self._read("shadow_scores", "scored_at", period)

    def mark_replayed(self, letter_id: int, answered: str) -> bool:
        """Keep that a dead letter was sent again; return False if it was marked before, or is gone."""
        mark = Replayed(format_instant(datetime.now(UTC)), answered, letter_id)
        return bool(self._submit(Batch(replayed=(mark,))).result())

    def check(self) -> None:
        """Return if something was written and synced just now. Raises JournalUnavailable."""
        self._submit(Batch(heartbeats=(Heartbeat(format_instant(datetime.now(UTC))),))).result()

    def read_predictions(self, period: Period, columns: Sequence[str] = ()) -> pl.DataFrame:
        """Return predictions by `requested_at`, oldest first: these columns of them, or all."""
        return self._read("predictions", "requested_at", period, columns)

    def find_prediction(self, prediction_id: str) -> Prediction | None:
        """Return one prediction, or None."""
        return self._tables.find_prediction(prediction_id)

    def sample_predictions(self, period: Period, size: int) -> list[Prediction]:
        """Return at most `size` predictions by `requested_at`, picked at random, the same ones every time."""
        return self._tables.sample_predictions(period, size)

    def read_outcomes(self, period: Period) -> pl.DataFrame:
        """Return outcomes by `observed_at`, oldest first."""
        return self._read("outcomes", "observed_at", period)

    def find_news(self, after: Mark) -> News:
        """Return what outcomes and predictions were written after a mark, and what time they are about."""
        return self._tables.find_news(after)

    def read_dead_letters(self, period: Period) -> pl.DataFrame:
        """Return dead letters by `received_at`, which is wall-clock time, oldest first."""
        return self._read("dead_letters", "received_at", period)

    def find_dead_letters(self, wanted: LetterFilter) -> list[KeptLetter]:
        """Return the dead letters that are meant, oldest first."""
        return self._tables.find_dead_letters(wanted)

    def list_replayed(self) -> list[str]:
        """Return the ids of predictions that came of sending dead letters again."""
        return [str(one) for told in self._tables.list_answered() for one in json.loads(told)]

    def count_dead_letters(self) -> list[tuple[str, str, int, int]]:
        """Return day, kind, how many, and how many of these were sent again."""
        return self._tables.count_dead_letters()

    def close(self) -> None:
        """Write what waits and end the writer."""
        self._writer.close()

    def _submit(self, batch: Batch) -> "Future[list[int]]":
        done: Future[list[int]] = Future()
        self._writer.put(batch, done)
        return done

    def _read(self, table: str, by: str, period: Period, columns: Sequence[str] = ()) -> pl.DataFrame:
        names = columns or COLUMNS[table]
        schema = {name: NUMBERS.get(name, pl.String) for name in names}
        return pl.DataFrame(self._tables.read(table, by, period, names), schema=schema, orient="row")
