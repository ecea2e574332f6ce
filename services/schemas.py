"""What clients send, in the bundled problem's own words. Particular to the problem.

A request is a flight before its departure; feedback is how it ended.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from msgspec import UNSET, Meta, Struct, UnsetType

from feature_repo.contract import Problem
from feature_repo.facts import DECIDE_AHEAD, LATE_MINUTES
from services.journal import Outcome
from services.wire import Wire

# `$` alone lets a line break at the end pass.
Carrier = Annotated[str, Meta(pattern=r"^[A-Z0-9]{2,3}$(?!\n)", description="Airline, by its code.")]
Airport = Annotated[str, Meta(pattern=r"^[A-Z]{3,4}$(?!\n)", description="Airport, by its code.")]
Flight = Annotated[int, Meta(ge=0, le=99_999, description="Flight number.")]
Miles = Annotated[int, Meta(gt=0, le=20_000, description="Distance in miles.")]
Instant = Annotated[datetime, Meta(tz=True, description="ISO 8601, with a time zone.")]
Minutes = Annotated[float, Meta(ge=-1_440, le=10_080, description="Minutes late; early: negative.")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]

FIRST, LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class Request(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """A flight before its departure; asked for `requested_at`, by default two hours ahead."""

    carrier: Carrier
    flight: Flight
    origin: Airport
    dest: Airport
    scheduled_departure: Instant
    distance: Miles
    requested_at: Instant | UnsetType = UNSET

    def __post_init__(self) -> None:
        departure, asked = self.scheduled_departure, self.requested_at
        if not FIRST <= departure < LAST:  # not by a call: this is a tenth of what reading a batch costs
            _check_instant("scheduled_departure", departure)
        if asked is not UNSET:
            if not FIRST <= asked < LAST:
                _check_instant("requested_at", asked)
            if asked > departure:
                raise ValueError("requested_at: expected an instant at or before scheduled_departure")


class Feedback(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """How a flight ended, by the prediction's id or the flight's."""

    status: Literal["arrived", "cancelled", "diverted"]
    observed_at: Instant
    prediction_id: Name | UnsetType = UNSET
    flight_id: Name | UnsetType = UNSET
    arrival_delay: Minutes | UnsetType = UNSET

    def __post_init__(self) -> None:
        _check_instant("observed_at", self.observed_at)
        if self.prediction_id is UNSET and self.flight_id is UNSET:
            raise ValueError("prediction_id: expected this or flight_id")
        if (self.status == "arrived") != (self.arrival_delay is not UNSET):
            raise ValueError("arrival_delay: expected minutes if status is arrived, and nothing otherwise")


EXAMPLE = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "scheduled_departure": "2013-01-01T10:15:00Z",
    "distance": 1400,
}
EXAMPLE_FEEDBACK = {
    "flight_id": "2013-01-01-UA-1545-EWR",
    "status": "arrived",
    "arrival_delay": 11,
    "observed_at": "2013-01-01T13:30:00Z",
}


def to_row(request: Request, problem: Problem, zone: ZoneInfo) -> dict[str, Any]:
    """Return the request as a row: entity, the instant of decision in UTC, and what features need."""
    departure = request.scheduled_departure.astimezone(UTC)
    asked = request.requested_at
    decided = asked.astimezone(UTC) if isinstance(asked, datetime) else departure - DECIDE_AHEAD
    day = _find_day(departure, zone)
    return {
        problem.entity: f"{day}-{request.carrier}-{request.flight}-{request.origin}",
        problem.decided_at: decided,
        "carrier": request.carrier,
        "flight": request.flight,
        "origin": request.origin,
        "dest": request.dest,
        "distance": request.distance,
        "scheduled_departure": departure,
    }


def to_outcome(feedback: Feedback) -> Outcome:
    """Return the feedback as the journal keeps it: late 1, in time 0, never arrived null."""
    delay = feedback.arrival_delay
    return Outcome(
        entity=feedback.flight_id if isinstance(feedback.flight_id, str) else None,
        prediction_id=feedback.prediction_id if isinstance(feedback.prediction_id, str) else None,
        outcome=None if isinstance(delay, UnsetType) else float(delay >= LATE_MINUTES),
        status=feedback.status,
        observed_at=feedback.observed_at.astimezone(UTC),
    )


def build_wire(problem: Problem) -> Wire:
    """Return what the service needs to speak this problem's language."""
    zone = ZoneInfo(problem.time_zone)
    return Wire(
        request=Request,
        feedback=Feedback,
        to_row=lambda request: to_row(request, problem, zone),
        to_outcome=to_outcome,
        example=EXAMPLE,
        example_feedback=EXAMPLE_FEEDBACK,
    )


@lru_cache(maxsize=4_096)  # many flights are to leave at the same minute
def _find_day(departure: datetime, zone: ZoneInfo) -> str:
    return departure.astimezone(zone).date().isoformat()


def _check_instant(name: str, instant: datetime) -> None:
    if not FIRST <= instant < LAST:
        raise ValueError(f"{name}: expected an instant from {FIRST:%Y-%m-%d} to before {LAST:%Y-%m-%d}")
