"""Dead letters after a fix: what was asked is sent to the service again, and the letter says so.

A letter is marked once its answer is in hand. A run that is killed between the two sends that one request
again when it is run again: the service then has two answers to it, the letter has one.
"""

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import LetterRefused
from services.journal import Journal, KeptLetter, LetterFilter

KEPT = 1_000  # bytes of a malformed request that are kept
PATHS = ("/predict", "/feedback")

# Takes path and body, gives status and content; raises PerennialError if nobody answers.
Send = Callable[[str, bytes], tuple[int, bytes]]
# Takes path and body, raises ValueError or a BadRequest if the service would refuse it.
Check = Callable[[str, bytes], object]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of sending a letter again; `answered` are ids of predictions, or of outcomes."""

    letter_id: int
    status: str  # answered, still flagged, still refused, cut, replayed before, not answered
    answered: tuple[str, ...] = ()
    why: str = ""

    @property
    def done(self) -> bool:
        """Whether the letter has its answer."""
        return self.status in {"answered", "still flagged", "replayed before"}


def find_path(letter: KeptLetter) -> str:
    """Return the path that a letter's request was sent to."""
    first = letter.reason.split(" ", 1)[0]
    return first if letter.kind == "malformed" and first in PATHS else PATHS[0]


def is_cut(letter: KeptLetter) -> bool:
    """Return whether only the beginning of a letter's request was kept, so that it cannot be sent."""
    # Bytes that are no text count as three each once they are replaced: taken for cut only if too long.
    if letter.kind != "malformed":
        return False
    if not letter.request:  # too large to be read at all
        return " 413 " in letter.reason
    if len(letter.request.encode()) < KEPT:
        return False
    try:
        json.loads(letter.request)
    except (ValueError, RecursionError):
        return True
    return False


def replay_letters(
    journal: Journal, ids: Iterable[int], lock: Path, check: Check, send: Send
) -> Iterator[Replay]:
    """Send letters again, one by one; two runs at once take turns, and none is marked twice."""
    with _locked(lock):
        for letter_id in ids:
            found = journal.find_dead_letters(LetterFilter(ids=(letter_id,)))
            if not found:
                raise LetterRefused(
                    f"dead letter {letter_id}",
                    got="no such letter",
                    expected="the id of one that is kept; the oldest are dropped",
                    next_step="Run `perennial dead-letters list`.",
                )
            yield replay_letter(journal, found[0], check, send)


def replay_letter(journal: Journal, letter: KeptLetter, check: Check, send: Send) -> Replay:
    """Send one letter's request again, unless it is known what would come of it."""
    if letter.replayed_at:
        return Replay(letter.id, "replayed before", tuple(json.loads(letter.answered or "[]")))
    if is_cut(letter):
        return Replay(letter.id, "cut", why=f"only its first {KEPT:,} bytes were kept: ask its sender again")
    path, body = find_path(letter), letter.request.encode()
    try:
        check(path, body)  # here, because the service would keep one more letter of what it refuses
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the request is the answer
        return Replay(letter.id, "still refused", why=str(error))
    status, content = send(path, body)
    if status in {200, 202}:
        return _mark(journal, letter, json.loads(content))
    told = content.decode("utf-8", "replace")[:KEPT]
    return Replay(
        letter.id, "still refused" if 400 <= status < 500 else "not answered", why=f"{status} {told}"
    )


def _mark(journal: Journal, letter: KeptLetter, told: dict[str, Any]) -> Replay:
    answers = told.get("predictions", [told] if "prediction_id" in told else [])
    ids = tuple(str(one["prediction_id"]) for one in answers) or tuple(map(str, told.get("outcome_ids", ())))
    if not journal.mark_replayed(letter.id, json.dumps(ids)):
        return Replay(letter.id, "replayed before")
    flags = [flag for one in answers for flag in one.get("flags", ())]
    why = ", ".join(f"{flag['feature']} {flag['kind']}" for flag in flags)
    return Replay(letter.id, "still flagged" if flags else "answered", ids, why)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
