"""What the journal keeps, and what it needs of a database to keep it in."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from feature_repo.contract import Period


class Prediction(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """A dead letter in the journal; `answered` is JSON, the ids that came of sending it again."""

    id: int
    kind: str
    reason: str
    request: str
    model_version: str | None
    received_at: str
    replayed_at: str | None
    answered: str | None


class ShadowScore(NamedTuple):
    """What a challenger would have answered to a prediction that the champion gave."""

    prediction_id: str
    model_version: str
    score: float
    scored_at: str


class Replayed(NamedTuple):
    """A mark on a dead letter: it was sent again and answered."""

    replayed_at: str
    answered: str
    letter_id: int


class LetterFilter(NamedTuple):
    """Which dead letters are meant; what is empty or None does not count."""

    kind: str = ""
    since: str = ""
    ids: tuple[int, ...] = ()
    waiting: bool = False  # only those not replayed yet
    limit: int | None = None  # the newest so many
    sampled: bool = False  # any so many, not the newest


class Mark(NamedTuple):
    """How far somebody has read: the newest row of each kind, in the order in which they were written."""

    outcomes: int = 0
    predictions: int = 0


class News(NamedTuple):
    """What was written after a mark: the mark now, and the earliest instant that any of it is about."""

    mark: Mark
    since: str | None


class Heartbeat(NamedTuple):
    """Nothing but a sign that something could be written."""

    at: str


class Batch(NamedTuple):
    """What one caller wants written: all of it or nothing."""

    predictions: Sequence[Prediction] = ()
    dead_letters: Sequence[DeadLetter] = ()
    outcomes: Sequence[Outcome] = ()
    replayed: Sequence[Replayed] = ()
    shadows: Sequence[ShadowScore] = ()
    heartbeats: Sequence[Heartbeat] = ()


class Tables(Protocol):
    """A database under the journal: SQLite's is `journal_sqlite.py`; another is one module like it.

    What an engine must give: a transaction over all tables; an id that is unique (`prediction_id`); text
    compared bytewise, so that ids and instants sort as time does; growing integer ids for outcomes and dead
    letters. Several processes write, each from one thread. In Postgres `turn` is empty, `insert` ends with a
    COMMIT that is durable by itself, `sync` returns True, and `tidy` has nothing to do.

    All raise JournalUnavailable if the database cannot be reached or written, and leave other errors,
    which are those of a record, as they come.
    """

    def turn(self) -> AbstractContextManager[None]:
        """Hold the right to write; what comes in meanwhile joins the transaction."""

    def insert(self, batches: Sequence[Batch]) -> list[list[int]]:
        """Write all batches in one transaction; return the ids of each one's outcomes or marks."""

    def sync(self) -> bool:
        """Return when all that was inserted would survive a loss of power; False if nobody will read it."""

    def tidy(self) -> None:
        """Do what may be done beside the writing, from another thread."""

    def close(self) -> None:
        """Let go of the database; the next use opens it again."""

    def read(self, table: str, by: str, period: Period, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return these columns of a table's rows of a period, ordered by the column `by`."""

    def find_prediction(self, prediction_id: str) -> Prediction | None:
        """Return one prediction, or None."""

    def sample_predictions(self, period: Period, size: int) -> list[Prediction]:
        """Return at most `size` predictions of a period, the same random ones every time."""

    def find_dead_letters(self, wanted: LetterFilter) -> list[KeptLetter]:
        """Return dead letters, oldest first."""

    def find_news(self, after: Mark) -> News:
        """Return what was written after a mark; all of it if the mark is beyond all that is there."""

    def list_answered(self) -> list[str]:
        """Return, of each letter that was sent again, what was answered: a JSON list of ids."""

    def count_dead_letters(self) -> list[tuple[str, str, int, int]]:
        """Return day, kind, how many, and how many of these were replayed."""


PREDICTION = Prediction._fields
LETTER = tuple(field.name for field in fields(DeadLetter))
COLUMNS = {
    "predictions": PREDICTION,
    "outcomes": (
        *("outcome_id", "entity", "prediction_id", "outcome", "status", "observed_at", "received_at"),
    ),
    "dead_letters": ("id", *LETTER),
    "shadow_scores": ShadowScore._fields,
}


@lru_cache(maxsize=4_096)  # what is asked together is often asked for the same instant
def format_instant(instant: datetime) -> str:
    """Return the instant as text that sorts as time does."""
    utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:26] + "Z"  # a tenth of what strftime costs
