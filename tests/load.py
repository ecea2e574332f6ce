"""Steady load: clients of one connection each that ask again once they are answered, and retry nothing."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Tally:
    """What clients saw in a stretch of time."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    heard: list[tuple[float, str]] = field(default_factory=list)  # when which version answered as champion
    slowest: float = 0.0  # seconds

    @property
    def answered(self) -> int:
        """Answers with a probability."""
        return len(self.ids)

    def describe(self) -> dict[str, Any]:
        """Return it as a figure's value."""
        told: dict[str, Any] = {"sent": self.sent, "answered": self.answered, "failed": len(self.failed)}
        if self.failed:
            told["first failures"] = self.failed[:3]
        return {**told, "served_by": dict(self.served), "slowest ms": round(self.slowest * 1_000)}


class Load:
    """A few clients in a thread of their own."""

    def __init__(self, url: str, bodies: Sequence[Any], clients: int, pause: float) -> None:
        self._url, self._bodies = url, bodies
        self._clients, self._pause = clients, pause
        self._tally, self._lock = Tally(), threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def cut(self) -> Tally:
        """Return what was seen since the last cut, and begin anew."""
        with self._lock:
            seen, self._tally = self._tally, Tally()
        return seen

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def end(self) -> Tally:
        """Wait for the last answers; return what was seen since the last cut."""
        self._ended.set()
        self._thread.join()
        return self.cut()

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask_on(n) for n in range(self._clients)))

    async def _ask_on(self, number: int) -> None:
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        async with httpx.AsyncClient(timeout=60, limits=one) as client:
            turn = number
            while not self._ended.is_set():
                await self._ask(client, self._bodies[turn % len(self._bodies)])
                turn += self._clients
                await asyncio.sleep(self._pause)

    async def _ask(self, client: httpx.AsyncClient, body: Any) -> None:
        began = time.monotonic()
        try:
            answer = await client.post(f"{self._url}/predict", json=body)
            told = answer.json() if answer.status_code == httpx.codes.OK else None
            failure = (
                "" if told and "probability" in told else f"HTTP {answer.status_code}: {answer.text[:200]}"
            )
        except (httpx.HTTPError, ValueError) as error:
            told, failure = None, repr(error)
        with self._lock:
            self._tally.sent += 1
            self._tally.slowest = max(self._tally.slowest, time.monotonic() - began)
            if failure:
                self._tally.failed.append(failure)
            else:
                self._tally.served[told["served_by"]] += 1
                self._tally.versions[str(told["model_version"])] += 1
                self._tally.ids.append(told["prediction_id"])
                if told["served_by"] == "champion":
                    self._tally.heard.append((time.time(), str(told["model_version"])))


@contextmanager
def steady_load(url: str, bodies: Sequence[Any], clients: int = 8, pause: float = 0.0) -> Iterator[Load]:
    """Keep asking while the block runs."""
    load = Load(url, bodies, clients, pause)
    load.start()
    try:
        yield load
    finally:
        load.end()
