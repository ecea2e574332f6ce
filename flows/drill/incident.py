"""What became of one injected failure: when it was noticed and by whom, what was done, when it was over."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

MODES = ("feedback", "silent", "skew", "release", "drift")  # as they are played: feedback takes a whole week
TITLES = {
    "drift": "data drift: a season skipped",
    "silent": "silent failure: missing, unseen, out of range, another unit",
    "skew": "training-serving skew: one side changed, a stale store",
    "feedback": "feedback lost: outcomes stop, then come late",
    "release": "bad release: a worse model promoted by hand",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that happened, `after` seconds from the injection; `at` is logical time.

    what  "injected", "noticed", "answered" (by the system itself), "mended" (by a person), "well"
    by    who did it: a monitor, a flow, a person
    """

    what: str
    by: str
    told: str
    after: float
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """What a mode shows over time: for the report."""

    title: str
    unit: str
    points: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True, slots=True)
class Incident:
    """One mode's record; `lacking` names what should have happened and did not."""

    mode: str
    marks: tuple[Mark, ...]
    lacking: tuple[str, ...]
    curves: tuple[Curve, ...]
    sent: int
    failed: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it was noticed, recovered from, and no request failed."""
        kinds = {mark.what for mark in self.marks}
        return {"injected", "noticed", "well"} <= kinds and not self.lacking and not self.failed

    @property
    def noticed(self) -> Mark | None:
        """The first notice."""
        return self.first("noticed")

    @property
    def well(self) -> Mark | None:
        """When all was well again."""
        return self.first("well")

    def first(self, what: str) -> Mark | None:
        """Return the first mark of a kind."""
        return next((mark for mark in self.marks if mark.what == what), None)

    def list(self, what: str) -> tuple[Mark, ...]:
        """Return all marks of a kind."""
        return tuple(mark for mark in self.marks if mark.what == what)

    def explain(self) -> tuple[str, ...]:
        """Return why it is not ok, in words."""
        words = {
            "injected": "nothing was injected",
            "noticed": "nobody noticed",
            "well": "it did not recover",
        }
        kinds = {mark.what for mark in self.marks}
        told = [text for kind, text in words.items() if kind not in kinds]
        failed = [f"{len(self.failed)} requests failed, the first: {self.failed[0]}"] if self.failed else []
        return (*self.lacking, *told, *failed)


@dataclass
class Diary:
    """An incident while it lasts."""

    mode: str
    began: float = field(default_factory=time.monotonic)
    marks: list[Mark] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    _injected: float | None = None

    def inject(self, told: str, at: datetime | None = None) -> None:
        """Note what was done to the system; the first one starts the clock."""
        self._injected = self._injected or time.monotonic()
        self._mark("injected", "the drill", told, at)

    def notice(self, by: str, told: str, at: datetime | None = None) -> None:
        """Note that a monitor noticed."""
        self._mark("noticed", by, told, at)

    def answer(self, by: str, told: str, at: datetime | None = None) -> None:
        """Note what the system did by itself."""
        self._mark("answered", by, told, at)

    def mend(self, told: str, at: datetime | None = None) -> None:
        """Note what a person, whom the drill plays, did."""
        self._mark("mended", "a person", told, at)

    def recover(self, by: str, told: str, at: datetime | None = None) -> None:
        """Note that all is well again."""
        self._mark("well", by, told, at)

    def require(self, held: Any, what: str) -> bool:
        """Note what should have happened and did not; return whether it did."""
        if not held:
            self.lacking.append(what)
        return bool(held)

    def close(self, sent: int, failed: list[str]) -> Incident:
        """Return the record."""
        seconds = time.monotonic() - self.began
        return Incident(
            self.mode,
            tuple(self.marks),
            tuple(self.lacking),
            tuple(self.curves),
            sent,
            tuple(failed),
            seconds,
        )

    def _mark(self, what: str, by: str, told: str, at: datetime | None) -> None:
        since = self._injected if self._injected is not None else self.began
        self.marks.append(Mark(what, by, told, time.monotonic() - since, at))
