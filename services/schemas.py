"""What a client may send, and what is wrong with what it sent. Particular to the problem."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from feature_repo.facts import DECIDE_AHEAD
from services.decoding import decode

Instant = Annotated[datetime, msgspec.Meta(tz=True, description="ISO 8601 with a zone, e.g. ...Z")]
Airport = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$", description="three-letter airport code")]

EXAMPLE = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400,
    "scheduled_departure": "2013-03-01T15:15:00Z",
}


class FlightRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One flight to predict; asked for `requested_at`, by default two hours before its departure."""

    carrier: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9]{2}$", description="airline code")]
    flight: Annotated[int, msgspec.Meta(ge=1, le=99_999)]
    origin: Airport
    dest: Airport
    distance: Annotated[int, msgspec.Meta(ge=1, le=20_000, description="miles")]
    scheduled_departure: Instant
    requested_at: Instant | None = None

    def to_row(self) -> dict[str, Any]:
        """Return the request as the features' computations take it, its instants in UTC."""
        departure = self.scheduled_departure.astimezone(UTC)
        decided_at = (self.requested_at or departure - DECIDE_AHEAD).astimezone(UTC)
        return {
            "flight_id": self._flight_id(),
            "decided_at": decided_at,
            "carrier": self.carrier,
            "flight": self.flight,
            "origin": self.origin,
            "dest": self.dest,
            "distance": self.distance,
            "scheduled_departure": departure,
        }

    def _flight_id(self) -> str:
        return f"{local_date(self.scheduled_departure)}-{self.carrier}-{self.flight}-{self.origin}"


class Feedback(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How a flight turned out, by prediction or by flight."""

    status: Literal["arrived", "cancelled", "diverted"]
    observed_at: Instant
    prediction_id: str | None = None
    flight_id: str | None = None
    arrival_delay: Annotated[float, msgspec.Meta(ge=-1_440, le=10_000)] | None = None

    def to_outcome(self) -> dict[str, Any]:
        """Return the outcome as the journal keeps it: 1 late, 0 not, None if it never arrived."""
        from feature_repo.facts import LATE_MINUTES

        late = None if self.arrival_delay is None else float(self.arrival_delay >= LATE_MINUTES)
        return {
            "entity": self.flight_id,
            "prediction_id": self.prediction_id,
            "outcome": late if self.status == "arrived" else None,
            "status": self.status,
            "observed_at": self.observed_at.astimezone(UTC).isoformat(),
        }

    def complain(self) -> tuple[str, object, str] | None:
        """Return (field, got, expected) if the fields do not fit together, else None."""
        if (self.prediction_id is None) == (self.flight_id is None):
            return "prediction_id, flight_id", "both or neither", "exactly one of them"
        if self.status == "arrived" and self.arrival_delay is None:
            return "arrival_delay", None, "minutes, since the status is arrived"
        return None


def decode_requests(body: bytes) -> tuple[list[FlightRequest], bool]:
    """Return the requests of a body and whether it was a single one. Raises Malformed."""
    return decode(body, FlightRequest)


def decode_feedback(body: bytes) -> tuple[list[Feedback], bool]:
    """Return the outcomes of a body and whether it was a single one. Raises Malformed."""
    return decode(body, Feedback)


def local_date(instant: datetime) -> str:
    """Return the date in the problem's time zone, as in a flight's id."""
    from zoneinfo import ZoneInfo

    from feature_repo.facts import TIME_ZONE

    return instant.astimezone(ZoneInfo(TIME_ZONE)).date().isoformat()
