"""Bodies are bounded in size, in time, and all together."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from services.decoding import BadRequest
from services.intake import Intake


def send(*parts: bytes, more: bool = False):
    """Return what a client sends, and then nothing any more."""
    left = list(parts)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or more}

    return receive


def read(intake: Intake, receive) -> bytes:
    return asyncio.run(intake.read(receive))


@pytest.mark.parametrize("parts", [(b"whole",), (b"wh", b"", b"ole"), (b"",)])
def test_a_body_is_read_in_one_piece_or_more(parts):
    """As it was sent."""
    assert read(Intake(), send(*parts)) == b"".join(parts)


@pytest.mark.parametrize("parts", [(b"x" * 11,), (b"x" * 6, b"x" * 5)])
def test_a_body_beyond_the_limit_is_refused(parts):
    """By its size, however it comes."""
    with pytest.raises(BadRequest, match="11 bytes") as told:
        read(Intake(limit=10), send(*parts))
    assert told.value.status == 413


@pytest.mark.parametrize("parts", [(), (b"some",)])
def test_a_body_that_does_not_come_is_given_up(parts):
    """A client that stops in the middle holds nothing for long."""
    with pytest.raises(BadRequest) as told:
        read(Intake(patience=0.05), send(*parts, more=True))
    assert told.value.status == 408


def test_bodies_that_are_not_whole_are_bounded_together():
    """One too many is refused; what the others hold is given back when they end."""

    async def go(intake: Intake):
        waiting = [asyncio.create_task(intake.read(send(b"x" * 8, more=True))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BadRequest) as told:
            await intake.read(send(b"x" * 8, b"x"))
        await asyncio.gather(*waiting, return_exceptions=True)
        return told.value.status, await intake.read(send(b"x" * 8, b"x"))

    assert asyncio.run(go(Intake(held=20, patience=0.2))) == (503, b"x" * 9)


def test_a_client_that_leaves_is_no_error():
    """It is told to the server as what it is."""

    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        read(Intake(), receive)
