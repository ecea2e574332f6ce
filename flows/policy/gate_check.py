"""One thing that the gate looked at, as all of its parts tell it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that the gate looked at."""

    name: str
    passed: bool
    got: str
    expected: str
