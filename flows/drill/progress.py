"""Lines that say how far it is, and about how long the rest takes."""

import time
from collections.abc import Callable, Mapping, Sequence

# Seconds that each step takes on two cores, as measured; only their ratios matter once one is done.
EXPECTED: Mapping[str, float] = {
    "prepare": 200.0,
    "silent": 25.0,
    "skew": 25.0,
    "release": 60.0,
    "feedback": 45.0,
    "drift": 240.0,
}


class Progress:
    """Counts steps done, and says what comes with an estimate of the rest."""

    def __init__(self, steps: Sequence[str], say: Callable[[str], None]) -> None:
        self._left = list(steps)
        self._say, self._began, self._done = say, time.monotonic(), 0.0

    def done(self, step: str) -> None:
        """Note that a step is over."""
        self._left.remove(step)
        self._done += EXPECTED[step]

    def tell(self, text: str) -> None:
        """Say what is being done."""
        took, rest = time.monotonic() - self._began, sum(EXPECTED[step] for step in self._left)
        pace = took / self._done if self._done else 1.0
        minutes = rest * pace / 60
        share = self._done / (self._done + rest) if self._done + rest else 1.0
        self._say(f"{took:4.0f} s {share:4.0%}, about {minutes:.0f} min left: {text}")
