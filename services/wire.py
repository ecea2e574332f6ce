"""The seam between the service and a problem's own request: types in, rows and outcomes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from services.decoding import Decoder
from services.journal import Outcome


@dataclass(frozen=True)
class Wire:
    """One problem's request and feedback, as structs, and how they become rows and outcomes."""

    request: type[msgspec.Struct]
    feedback: type[msgspec.Struct]
    to_row: Callable[[Any], dict[str, Any]]
    to_outcome: Callable[[Any], Outcome]
    example: Mapping[str, Any]
    example_feedback: Mapping[str, Any]

    @cached_property
    def requests(self) -> Decoder[Any]:
        """Reads bodies of /predict."""
        return Decoder(self.request)

    @cached_property
    def feedbacks(self) -> Decoder[Any]:
        """Reads bodies of /feedback."""
        return Decoder(self.feedback)
