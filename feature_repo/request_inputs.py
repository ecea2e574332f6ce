"""Request functions side by side: a newer one adds inputs and cannot change those that are there.

A live model goes on being given what the older functions make, while the next one takes more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

AddInputs = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class SideBySide:
    """Calls each function on what those before it made, and takes only its new columns.

    What a later function says under a name that is there already does not count. Each keeps rows and order.
    """

    functions: tuple[AddInputs, ...]

    def __call__(self, requests: pl.DataFrame) -> pl.DataFrame:
        """Return the requests with every function's columns."""
        frame = self.functions[0](requests)
        for add in self.functions[1:]:
            told = add(frame)
            frame = frame.hstack(told.drop(frame.columns, strict=False))
        return frame


def list_functions(add: AddInputs) -> tuple[AddInputs, ...]:
    """Return the functions of which a request function is made, the oldest first."""
    return add.functions if isinstance(add, SideBySide) else (add,)
