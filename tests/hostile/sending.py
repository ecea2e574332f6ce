"""Sends attacks over sockets and judges what comes back: named refusals and answers that say who answered."""

import json
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.hostile.attacks import Attack

PATIENCE = 20.0  # seconds after which a server hangs
SENDERS = 4
KEPT = 20  # problems that are told in full


@dataclass(frozen=True)
class Heard:
    """What came back. `status` 0: the connection was closed without an answer; -1: nothing came in time."""

    status: int
    body: bytes = b""
    closed: bool = True


@dataclass
class Tally:
    """What a campaign came to."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def note(self, attack: Attack, heard: Heard) -> None:
        """Count one attack."""
        self.sent += 1
        self.statuses[heard.status] += 1
        self.kinds[attack.kind] += 1
        if problem := find_problem(attack, heard):
            self.problems[problem] += 1
            if len(self.told) < KEPT:
                self.told.append(f"{problem}: {attack.sent[:300]!r} -> {heard.status} {heard.body[:200]!r}")


class Sender(threading.Thread):
    """Sends what is in the queue over one connection, anew after each that was closed."""

    def __init__(self, port: int, work: "queue.Queue[Attack | None]", note: Callable[..., None]) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._work = work
        self._note = note
        self._socket: socket.socket | None = None

    def run(self) -> None:
        """Send until told to stop."""
        while (attack := self._work.get()) is not None:
            heard = self._send(attack)
            if heard.status == 0 and attack.spoken:
                heard = self._send(attack)  # a kept connection may have been closed just before
            if heard.closed or not attack.spoken:
                self._close()
            self._note(attack, heard)
        self._close()

    def _send(self, attack: Attack) -> Heard:
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was sent whole
                self._socket.sendall(attack.sent)
            if not attack.spoken:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
            if not attack.whole:
                return Heard(0)
            answer = HTTPResponse(self._socket, method=attack.method)
            answer.begin()
            return Heard(answer.status, answer.read(), answer.will_close)
        except TimeoutError:
            self._close()
            return Heard(-1)
        except (OSError, HTTPException):
            self._close()
            return Heard(0)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def attack_server(port: int, attacks: st.SearchStrategy[Attack], count: int, start: int = 0) -> Tally:
    """Send so many made-up attacks to a server and return what came of it; `start` seeds their making."""
    tally, lock = Tally(), threading.Lock()
    work: queue.Queue[Attack | None] = queue.Queue(64)

    def note(attack: Attack, heard: Heard) -> None:
        with lock:
            tally.note(attack, heard)

    senders = [Sender(port, work, note) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    turn = start
    while (lacking := count - (turn - start) * ROUND) > 0:
        _make(attacks, min(lacking, ROUND), turn, work.put)
        turn += 1
    for _ in senders:
        work.put(None)
    for sender in senders:
        sender.join()
    return tally


ROUND = 2_000  # Hypothesis remembers every example of a run


def _make(attacks: st.SearchStrategy[Attack], count: int, turn: int, put: Callable[[Attack], None]) -> None:
    made = 0

    @seed(turn)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(attacks)
    def send(attack: Attack) -> None:
        nonlocal made
        made += 1
        put(attack)

    send()
    if made < count:
        raise AssertionError(f"{made} attacks were made, {count} asked for")


def find_problem(attack: Attack, heard: Heard) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    if heard.status == -1:
        return "hang"
    if not attack.spoken:
        # Whoever does not speak HTTP may be hung up on, but not waited for.
        return "5xx" if heard.status >= 500 else ""
    if heard.status == 0:
        return "no answer"
    if heard.status >= 500:
        return "5xx"
    if attack.method == "HEAD" or heard.status in {204, 304}:
        return "" if not heard.body else "body where none may be"
    if heard.status >= 400:
        return _check_refusal(heard)
    if heard.status >= 300:
        return ""
    return _check_answer(attack, heard)


def _check_refusal(heard: Heard) -> str:
    told = _read(heard.body)
    error = told.get("error") if isinstance(told, dict) else None
    named = isinstance(error, dict) and error.get("field") and error.get("expected") and "got" in error
    return "" if named else f"{heard.status} that names nothing"


def _check_answer(attack: Attack, heard: Heard) -> str:
    told, path = _read(heard.body), attack.path.partition("?")[0]
    if attack.method != "POST" or path not in {"/predict", "/feedback"}:
        return "" if heard.body else "silence"
    if not isinstance(told, dict):
        return "answer that is no JSON"
    if path == "/feedback":
        return "" if heard.status == 202 and told.get("accepted") else "feedback not acknowledged"
    answers = told.get("predictions", [told])
    return "" if answers and all(one.get("served_by") for one in answers) else "answer of nobody"


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
