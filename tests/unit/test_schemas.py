"""Requests and feedback of the bundled problem: what is taken, and what is said of the rest."""

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.problem import PROBLEM
from services.decoding import BadRequest
from services.schemas import EXAMPLE, EXAMPLE_FEEDBACK, build_wire

WIRE = build_wire(PROBLEM)
DEPARTURE = datetime(2013, 1, 1, 10, 15, tzinfo=UTC)


def read(content):
    return WIRE.requests.read(content if isinstance(content, bytes) else json.dumps(content).encode())


def refuse(content, decoder=WIRE.requests):
    with pytest.raises(BadRequest) as caught:
        decoder.read(content if isinstance(content, bytes) else json.dumps(content).encode())
    return caught.value


def test_a_single_item_and_a_list_are_told_apart():
    """What came alone is answered alone."""
    assert read(EXAMPLE)[1] is True
    items, single = read([EXAMPLE, EXAMPLE])
    assert (len(items), single) == (2, False)


def test_a_request_is_decided_two_hours_before_departure():
    """`requested_at` has a default, and everything is in UTC."""
    row = WIRE.to_row(read(EXAMPLE)[0][0])
    assert row["flight_id"] == "2013-01-01-UA-1545-EWR"
    assert row["decided_at"] == datetime(2013, 1, 1, 8, 15, tzinfo=UTC)
    assert row["scheduled_departure"] == DEPARTURE


def test_a_flight_is_named_by_its_local_day():
    """A departure after midnight in UTC is still the evening before in New York."""
    late = {**EXAMPLE, "scheduled_departure": "2013-07-05T03:30:00+00:00"}
    assert WIRE.to_row(read(late)[0][0])["flight_id"] == "2013-07-04-UA-1545-EWR"


def test_another_zone_is_the_same_instant():
    """Any offset is taken; the row holds UTC."""
    offset = {**EXAMPLE, "scheduled_departure": "2013-01-01T05:15:00-05:00"}
    assert WIRE.to_row(read(offset)[0][0])["scheduled_departure"] == DEPARTURE


def test_a_row_gives_the_features_that_training_gets():
    """The problem's own function takes the rows as they are."""
    import polars as pl

    frame = pl.DataFrame([WIRE.to_row(read(EXAMPLE)[0][0])], schema_overrides=PROBLEM.request_fields)
    assert PROBLEM.add_request_features(frame)["local_hour"].to_list() == [5.25]


WRONG = {
    "missing": ({k: v for k, v in EXAMPLE.items() if k != "carrier"}, "carrier", "nothing"),
    "text for a number": ({**EXAMPLE, "distance": "far"}, "distance", "far"),
    "no zone": ({**EXAMPLE, "scheduled_departure": "2013-01-01T10:15:00"}, "scheduled_departure", None),
    "no instant": ({**EXAMPLE, "scheduled_departure": "soon"}, "scheduled_departure", "soon"),
    "unknown field": ({**EXAMPLE, "tailnum": "N1"}, "tailnum", None),
    "below zero": ({**EXAMPLE, "distance": -1}, "distance", -1),
    "no code": ({**EXAMPLE, "origin": "new york"}, "origin", "new york"),
    "a line break at its end": ({**EXAMPLE, "carrier": "UA\n"}, "carrier", "UA\n"),
    "too early": ({**EXAMPLE, "scheduled_departure": "0001-01-01T00:00:00Z"}, "scheduled_departure", None),
    "after departure": ({**EXAMPLE, "requested_at": "2013-01-01T10:16:00Z"}, "requested_at", None),
    "in a list": ([EXAMPLE, {**EXAMPLE, "flight": None}], "[1].flight", None),
    "empty list": ([], "items", "0 items"),
    "too many": ([EXAMPLE] * 1_001, "items", "1,001 items"),
    "no object": (3, "body", 3),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named(case):
    """A refusal names field, value, expectation and what to do."""
    content, field, got = WRONG[case]
    error = refuse(content)
    told = error.to_body()["error"]
    assert (error.status, told["field"]) == (422, field)
    assert set(told) == {"field", "got", "expected", "next_step"}
    assert got is None or told["got"] == got
    assert told["expected"]


@pytest.mark.parametrize("body", [b"", b"{bad", b"\xff\xfe", b'{"carrier":"\xff"}', b"NaN"])
def test_what_is_no_json_is_called_so(body):
    """Text that is no JSON is a 400."""
    assert refuse(body).status == 400


def test_a_thousand_items_are_taken():
    """The largest list allowed is allowed."""
    assert len(read([EXAMPLE] * 1_000)[0]) == 1_000


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*EXAMPLE, "x"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_comes_is_read_or_refused(body):
    """No body makes the decoder raise anything but a refusal."""
    for decoder in (WIRE.requests, WIRE.feedbacks):
        with contextlib.suppress(BadRequest):
            items, _ = decoder.read(body)
            assert items


def test_feedback_becomes_an_outcome():
    """Fifteen minutes late is late; a flight that never arrived has no value."""
    [arrived], _ = WIRE.feedbacks.read(json.dumps({**EXAMPLE_FEEDBACK, "arrival_delay": 15}).encode())
    assert WIRE.to_outcome(arrived).outcome == 1.0
    lost = {k: v for k, v in EXAMPLE_FEEDBACK.items() if k != "arrival_delay"} | {"status": "cancelled"}
    [cancelled], _ = WIRE.feedbacks.read(json.dumps(lost).encode())
    assert (WIRE.to_outcome(cancelled).outcome, WIRE.to_outcome(cancelled).status) == (None, "cancelled")


def test_feedback_that_does_not_fit_together_is_refused():
    """It needs a name of what it is about, and minutes exactly if the flight arrived."""
    nameless = {k: v for k, v in EXAMPLE_FEEDBACK.items() if k != "flight_id"}
    assert refuse(nameless, WIRE.feedbacks).field == "prediction_id"
    assert refuse({**EXAMPLE_FEEDBACK, "status": "diverted"}, WIRE.feedbacks).field == "arrival_delay"
