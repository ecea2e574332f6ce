"""A receiver of webhooks: keeps what Alertmanager posts."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """One message: `status` is firing or resolved, `alerts` are pairs of name and status."""

    status: str
    incident: str
    alerts: tuple[tuple[str, str], ...]
    whole: dict[str, Any]

    @property
    def names(self) -> set[str]:
        """The alerts that it is about."""
        return {name for name, _ in self.alerts}


class Receiver(http.server.ThreadingHTTPServer):
    """Listens on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[Message] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/alerts"

    def find(self, incident: str, status: str = "", after: int = 0) -> list[Message]:
        """Return the messages of an incident that came after so many others, oldest first."""
        return [m for m in self.messages[after:] if m.incident == incident and status in ("", m.status)]

    def await_message(self, incident: str, status: str, within: float, after: int = 0) -> Message | None:
        """Return the first such message, or None if none came in time."""
        deadline = time.monotonic() + within
        while not (found := self.find(incident, status, after)):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)
        return found[0]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        alerts = tuple((one["labels"]["alertname"], one["status"]) for one in told["alerts"])
        incident = told["groupLabels"].get("incident", "")
        self.server.messages.append(Message(told["status"], incident, alerts, told))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def receiving(make: Callable[[], Receiver] = Receiver) -> Iterator[Receiver]:
    """Receive for as long as the block lasts."""
    with make() as server:
        thread = threading.Thread(target=server.serve_forever, name="receiver")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
