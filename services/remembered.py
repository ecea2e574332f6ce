"""What a reader made of the values that are held of a key: gone with the values, and with the reader.

A version that serves no more takes all that it remembered with it; a key that is written anew is forgotten
by all. A dictionary with weak keys does the same at four times the cost of a look.
"""

from typing import Generic, TypeVar
from weakref import ref

from feature_repo.freshness import Memo

Made = TypeVar("Made")


class Remembered(Generic[Made]):
    """One reader's: each loaded version has its own."""

    def __init__(self) -> None:
        self._made: dict[int, Made] = {}
        self._there: dict[int, ref[Memo]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def get(self, memo: Memo) -> Made | None:
        """Return what was made of the values that a memo stands for; None if nothing was yet."""
        return self._made.get(id(memo))

    def keep(self, memo: Memo, made: Made) -> Made:
        """Remember it for as long as the memo is there."""
        key, mine = id(memo), ref(self)

        def forget(_: object) -> None:
            if reader := mine():
                reader._made.pop(key, None)
                reader._there.pop(key, None)

        self._there[key] = ref(memo, forget)
        self._made[key] = made
        return made
