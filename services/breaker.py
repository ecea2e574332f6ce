"""A circuit breaker: what failed again and again, or was late once, is left alone for a while.

Our own, since it has to be opened from outside while a call hangs: the libraries hold a lock over the call.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

FAILURES = 3  # in a row
REST_SECONDS = 1.0  # of what failed: a trial costs little
REST_AFTER_LATE = 5.0  # of what hung: a trial costs a deadline and a thread; twice as long after each
LONGEST_REST = 300.0

Result = TypeVar("Result")


class Resting(Exception):
    """The circuit is open; `cause` says what opened it: `failed` or `late`."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Breaker:
    """Closed: all calls pass. Open: none. After its rest one call is let through, and decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._rest = REST_AFTER_LATE
        self._open_until: float | None = None
        self.cause = "failed"

    def allows(self) -> bool:
        """Return whether a call may pass now."""
        if self._open_until is None:
            return True
        if self._clock() < self._open_until:
            return False
        # Others wait until this one has decided, or for as long as it might hang.
        self._open_until = self._clock() + self._rest
        return True

    def succeed(self) -> None:
        """Note a call that went well."""
        self._failures, self._open_until, self._rest = 0, None, REST_AFTER_LATE

    def fail(self) -> None:
        """Note a call that failed."""
        self._failures += 1
        if self._failures >= FAILURES or self._open_until is not None:
            self.trip("failed")

    def trip(self, cause: str) -> None:
        """Open the circuit now."""
        rest = REST_SECONDS
        if cause == "late":
            rest, self._rest = self._rest, min(2 * self._rest, LONGEST_REST)
        self.cause, self._open_until = cause, self._clock() + rest


class Circuits:
    """A breaker for each thing that is called, by name, and what each thread is calling right now."""

    KEPT = 16

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}
        self._calling: dict[int, str] = {}

    def call(self, name: str, function: Callable[[], Result], without: Iterable[str] = ()) -> Result:
        """Call a function through its breaker. Raises Resting, or what the function raises."""
        if name in without:
            raise Resting("late")
        breaker, thread = self._find(name), threading.get_ident()
        if not breaker.allows():
            raise Resting(breaker.cause)
        self._calling[thread] = name
        try:
            result = function()
        except Exception:
            if self._calling.pop(thread, None) is not None:
                breaker.fail()
            raise
        # Nothing is known any more of a call that was given up: its end says nothing of the next one.
        if self._calling.pop(thread, None) is not None:
            breaker.succeed()
        return result

    def is_calling(self, thread: int) -> bool:
        """Return whether a thread is in a call right now."""
        return thread in self._calling

    def give_up(self, thread: int) -> str | None:
        """Open the circuit of what a thread hangs in, and return its name; None if it hangs in nothing."""
        name = self._calling.pop(thread, None)
        if name is not None:
            self._find(name).trip("late")
        return name

    def read_open(self) -> dict[str, str]:
        """Return the cause of each open circuit, by name."""
        return {name: b.cause for name, b in list(self._breakers.items()) if b._open_until is not None}

    def _find(self, name: str) -> Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = Breaker(self._clock)
            while len(self._breakers) > self.KEPT:  # of versions long gone
                self._breakers.pop(next(iter(self._breakers)))
        return breaker
