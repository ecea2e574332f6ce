"""Bodies as they come in: bounded in size, in time, and all together."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from services.decoding import BadRequest

MAX_BODY = 5 * 1024 * 1024
DRAIN = 64 * 1024 * 1024  # of a body that is too large, read on and dropped, so that the refusal gets through
MAX_HELD = 64 * 1024 * 1024  # of all bodies that are not whole yet
PATIENCE = 15.0  # seconds until a body must be whole


class Intake:
    """Reads bodies on one event loop."""

    def __init__(self, limit: int = MAX_BODY, held: int = MAX_HELD, patience: float = PATIENCE) -> None:
        self._limit = limit
        self._most = held
        self._patience = patience
        self._held = 0  # bytes

    async def read(self, receive: Receive) -> bytes:
        """Return a body. Raises BadRequest: 413 too large, 408 too slow, 503 too many at once."""
        try:
            async with asyncio.timeout(self._patience):
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body", False):
                    return self._check(message.get("body", b""))
                return await self._gather(message, receive)
        except TimeoutError:
            told = f"all of it within {self._patience:g} s"
            raise BadRequest(
                408, "body", got="part of it", expected=told, next_step="Send it in one go."
            ) from None

    async def _gather(self, message: Message, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = mine = 0
        try:
            while True:
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part: bytes = message.get("body", b"")
                size += len(part)
                if size <= self._limit:
                    parts.append(part)
                    mine += len(part)
                    self._held += len(part)
                    if self._held > self._most:
                        step = "Try again in a second."
                        raise BadRequest(
                            503, "body", got="too many at once", expected="fewer", next_step=step
                        )
                elif size > DRAIN:
                    break
                if not message.get("more_body", False):
                    break
                message = await receive()
        finally:
            self._held -= mine
        return self._check(b"".join(parts), size)

    def _check(self, body: bytes, size: int = 0) -> bytes:
        size = size or len(body)
        if size > self._limit:
            told = f"at most {self._limit:,} bytes"
            raise BadRequest(413, "body", got=f"{size:,} bytes", expected=told, next_step="Split the list.")
        return body
