"""The record of releases, one file of the home: every move of an alias, and each rollout with its reasons.

A move is written down before it is made, and again once it was: whatever is killed in between, who wanted
it and why is known. The lock is held around a move; a process that dies lets go of it.
"""

import fcntl
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.errors import ReleaseBusy

BY_HAND, AUTOMATIC, NOTICED = "by hand", "automatic", "noticed"  # how a move came about
RELEASING, BESIDE, WATCHED = "releasing", "beside", "watched"  # where an open rollout is
PATIENCE = 30.0  # seconds to wait for another move to end
SCHEMA = """
CREATE TABLE IF NOT EXISTS moves (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, alias TEXT NOT NULL,
    before INTEGER, after INTEGER, who TEXT NOT NULL, how TEXT NOT NULL, reason TEXT NOT NULL,
    seconds REAL, rollout INTEGER, state TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS rollouts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, baseline INTEGER, terms TEXT NOT NULL,
    opened_at TEXT NOT NULL, since TEXT NOT NULL, state TEXT NOT NULL, reasons TEXT NOT NULL DEFAULT '[]',
    ended_at TEXT
);
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """One move of an alias. `seconds` is what it took; None of one that was only noticed afterwards."""

    id: int
    at: str
    alias: str
    before: int | None
    after: int | None
    who: str
    how: str
    reason: str
    seconds: float | None
    rollout: int | None
    state: str  # "begun" or "done"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One version on its way: beside the champion, or watched as the champion.

    baseline  the version that it is compared with
    terms     its stage, share and bake time, as the tag of the version tells them to the workers
    since     when the stage that it is in began, on the clock that stamps answers
    state     "releasing" until its alias has moved, "beside", "watched", or how it ended: "kept", "stopped",
              "rolled back", "overridden"
    """

    id: int
    version: int
    baseline: int | None
    terms: dict[str, Any]
    opened_at: str
    since: str
    state: str
    reasons: tuple[str, ...]
    ended_at: str | None

    @property
    def open(self) -> bool:
        """Whether it is still on its way."""
        return self.ended_at is None


class ReleaseState:
    """The record of one home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "releases"
        self._inside = threading.local()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let nobody else move anything meanwhile. Raises ReleaseBusy."""
        if getattr(self._inside, "held", False):
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a") as file:
            _lock(file, self._folder)
            self._inside.held = True
            try:
                yield
            finally:
                self._inside.held = False

    def begin(self, alias: str, before: int | None, after: int | None, **told: Any) -> int:
        """Write down a move that is about to be made; return its id. `told`: who, how, reason, rollout."""
        row = {
            "at": self._stamp(),
            "alias": alias,
            "before": before,
            "after": after,
            "state": "begun",
            **told,
        }
        return self._insert("moves", row)

    def finish(self, move: int, seconds: float | None) -> None:
        """Write down that a move was made."""
        told = (self._stamp(), seconds, move)
        self._run("UPDATE moves SET state = 'done', at = ?, seconds = ? WHERE id = ?", told)

    def settle(self, alias: str, after: int | None) -> bool:
        """Finish what a killed process began, if it came to pass; drop it if not. Return whether it did.

        To be called while holding: nobody else is at it then.
        """
        begun = [move for move in self._moves("state = 'begun'") if move.alias == alias]
        done = [move for move in begun if move.after == after][-1:]
        for move in done:
            self._run("UPDATE moves SET state = 'done' WHERE id = ?", (move.id,))
        self._run("DELETE FROM moves WHERE state = 'begun' AND alias = ?", (alias,))
        return bool(done)

    def note(self, alias: str, before: int | None, after: int | None, reason: str) -> None:
        """Write down a move that somebody made without us."""
        told = {"who": "somebody, in MLflow", "how": NOTICED, "reason": reason}
        self.finish(self.begin(alias, before, after, **told), None)

    def moves(self) -> list[Moved]:
        """Return all moves that were made, oldest first."""
        return self._moves("state = 'done'")

    def last(self, alias: str) -> int | None:
        """Return the version that the alias named by the last move known of it."""
        moves = [move for move in self.moves() if move.alias == alias]
        return moves[-1].after if moves else None

    def open_rollout(
        self, version: int, baseline: int | None, terms: dict[str, Any], state: str, reasons: Sequence[str]
    ) -> Rollout:
        """Begin a rollout; what another one of the same version came to is not its own."""
        row = {"version": version, "baseline": baseline, "terms": json.dumps(terms), "state": state}
        told = {"opened_at": self._stamp(), "since": now(), "reasons": json.dumps(list(reasons))}
        found = self._insert("rollouts", {**row, **told})
        return self.rollout(found)

    def rollout(self, identity: int) -> Rollout:
        """Return one rollout."""
        return self._rollouts("id = ?", (identity,))[0]

    def rollouts(self) -> list[Rollout]:
        """Return all rollouts, oldest first."""
        return self._rollouts("1 = 1", ())

    def open_rollouts(self) -> list[Rollout]:
        """Return those that have not ended, oldest first; more than one only in the midst of a move."""
        return self._rollouts("ended_at IS NULL", ())

    def current(self) -> Rollout | None:
        """Return the rollout that is under way: the newest open one whose alias has moved."""
        found = [rollout for rollout in self.open_rollouts() if rollout.state != RELEASING]
        return found[-1] if found else None

    def change(self, rollout: Rollout, **columns: Any) -> Rollout:
        """Write columns of a rollout: baseline, since, state, terms, reasons, ended_at."""
        for name in ("terms", "reasons"):
            if name in columns:
                columns[name] = json.dumps(columns[name])
        named = ", ".join(f"{name} = ?" for name in columns)
        self._run(f"UPDATE rollouts SET {named} WHERE id = ?", (*columns.values(), rollout.id))  # noqa: S608
        return self.rollout(rollout.id)

    def end(self, rollout: Rollout, state: str, reasons: Sequence[str]) -> Rollout:
        """Write down how a rollout ended, and why."""
        return self.change(rollout, state=state, reasons=[*rollout.reasons, *reasons], ended_at=now())

    def _stamp(self) -> str:
        """Return this instant, or the newest one of the record if the clock went back behind it."""
        newest = self._run("SELECT at FROM moves UNION ALL SELECT opened_at FROM rollouts", ())
        return max([now(), *(at for (at,) in newest)])

    def _moves(self, where: str) -> list[Moved]:
        names = ", ".join(field.name for field in fields(Moved))
        rows = self._run(f"SELECT {names} FROM moves WHERE {where} ORDER BY id", ())  # noqa: S608
        return [Moved(*row) for row in rows]

    def _rollouts(self, where: str, values: Sequence[Any]) -> list[Rollout]:
        names = [field.name for field in fields(Rollout)]
        text = f"SELECT {', '.join(names)} FROM rollouts WHERE {where} ORDER BY id"  # noqa: S608
        found = []
        for row in self._run(text, values):
            told = dict(zip(names, row, strict=True))
            told["terms"], told["reasons"] = json.loads(told["terms"]), tuple(json.loads(told["reasons"]))
            found.append(Rollout(**told))
        return found

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        text = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id"  # noqa: S608
        return int(self._run(text, tuple(row.values()))[0][0])

    def _run(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._folder / "releases.db", timeout=PATIENCE)
        try:
            with connection:
                connection.executescript(SCHEMA)
                return connection.execute(text, values).fetchall()
        finally:
            connection.close()


def now() -> str:
    """Return this instant as text that sorts as time does."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _lock(file: Any, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ReleaseBusy(
                    f"releases in {folder}",
                    got=f"another move that has not ended in {PATIENCE:.0f} s",
                    expected="one at a time",
                    next_step="Look at `perennial history`, and try again.",
                ) from None
            time.sleep(0.02)
