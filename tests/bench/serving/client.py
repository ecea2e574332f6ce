"""A lean closed-loop HTTP client in a process of its own: one JSON object of figures on standard output.

    python tests/bench/serving/client.py --port 3000 --path /predict --bodies bodies.jsonl --concurrency 8

Each connection sends its next request when it has the answer to the last. Requests are whole bytes
before the clock runs, one thread waits on epoll, and of an answer only status, length and one word
are looked at: some 20 microseconds a request, which no server here comes near.
"""

import argparse
import json
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM = 0.5  # seconds that are not counted
PATIENCE = 30.0  # seconds without any answer after which the run ends, short


class Connection:
    """One kept-alive connection and the request that is on its way."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.since = 0.0
        self.came = b""
        self.lasts = 0  # length of the whole answer; 0: not known yet

    def send(self, request: bytes) -> None:
        """Send a whole request."""
        self.came, self.lasts, self.since = b"", 0, time.perf_counter()
        self.socket.sendall(request)

    def read(self) -> bytes | None:
        """Return the answer if it is there whole. Raises OSError if the server hung up."""
        part = self.socket.recv(262_144)
        if not part:
            raise ConnectionError("the server closed the connection")
        self.came += part
        if not self.lasts:
            self._find_length()
        if self.lasts > 0:
            return self.came if len(self.came) >= self.lasts else None
        return self.came if self.lasts and self.came.endswith(b"\r\n0\r\n\r\n") else None

    def _find_length(self) -> None:
        end = self.came.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.came[:end].lower()
        found = head.find(b"content-length:")
        if found < 0:
            self.lasts = -1  # chunked
        else:
            self.lasts = end + 4 + int(head[found + 15 :].split(b"\r\n", 1)[0])


class Run:
    """Figures of one run."""

    def __init__(self, expected: bytes) -> None:
        self.expected = expected
        self.taken: list[float] = []
        self.failed = 0
        self.first_failure = ""

    def note(self, answer: bytes, seconds: float) -> None:
        """Count one answer."""
        self.taken.append(seconds)
        if not answer.startswith(b"HTTP/1.1 200") or self.expected not in answer:
            self.failed += 1
            self.first_failure = self.first_failure or answer[:2_000].decode("latin-1")


def drive(
    host: str, port: int, requests: Sequence[bytes], given: argparse.Namespace, run: Run
) -> dict[str, Any]:
    """Send for so many seconds, or so many requests, and return the figures."""
    concurrency, tree, count = given.concurrency, given.tree, given.requests
    seconds = float("inf") if count else given.seconds
    poller = select.epoll()
    connections: dict[int, Connection] = {}
    for _ in range(concurrency):
        open_connection(host, port, poller, connections)
    turn, counted, busy = 0, bool(count), 0.0
    began = time.perf_counter()
    for connection in connections.values():
        connection.send(requests[turn % len(requests)])
        turn += 1
    while True:
        events = poller.poll(PATIENCE)
        if not events:
            run.failed, run.first_failure = run.failed + 1, f"no answer for {PATIENCE:.0f} s"
            break
        now = time.perf_counter()
        if not counted and now - began >= WARM:
            counted, began, busy = True, now, read_cpu(tree)
            run.taken.clear()
        if counted and (now - began >= seconds or 0 < count <= len(run.taken)):
            break
        for number, _ in events:
            connection = connections[number]
            try:
                answer = connection.read()
            except OSError as error:
                run.failed, run.first_failure = run.failed + 1, run.first_failure or repr(error)
                poller.unregister(connection.socket)
                connections.pop(number).socket.close()
                connection = open_connection(host, port, poller, connections)
                answer = b""
            if answer:
                run.note(answer, time.perf_counter() - connection.since)
            if answer is not None:
                connection.send(requests[turn % len(requests)])
                turn += 1
    elapsed, busy = time.perf_counter() - began, read_cpu(tree) - busy
    return summarise(run, elapsed, busy)


def open_connection(host: str, port: int, poller: Any, connections: dict[int, Connection]) -> Connection:
    """Open a connection and watch it."""
    connection = Connection(host, port)
    connections[connection.socket.fileno()] = connection
    poller.register(connection.socket, select.EPOLLIN)
    return connection


def summarise(run: Run, elapsed: float, busy: float) -> dict[str, Any]:
    """Return the figures by name."""
    taken, count = sorted(run.taken), max(len(run.taken), 1)
    figures: dict[str, Any] = {
        "requests": len(taken),
        "seconds": elapsed,
        "rps": len(taken) / elapsed,
        "p50_ms": pick(taken, 0.50) * 1e3,
        "p99_ms": pick(taken, 0.99) * 1e3,
        "cpu_ms": busy / count * 1e3,
        "failed": run.failed,
    }
    return figures | ({"first_failure": run.first_failure} if run.failed else {})


def pick(ordered: Sequence[float], share: float) -> float:
    """Return the quantile of sorted numbers."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def read_cpu(pid: int) -> float:
    """Return the processor seconds of a process and its descendants; 0 if none is asked for."""
    if not pid:
        return 0.0
    import psutil

    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def build_requests(bodies: Sequence[bytes], path: str) -> list[bytes]:
    """Return whole HTTP requests."""
    head = "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    return [head.format(path, len(body)).encode() + body for body in bodies]


def main() -> None:
    """Read the command line, drive, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--bodies", type=Path, required=True, help="JSON lines, one request body each")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=0, help="end after so many, however long it takes")
    parser.add_argument("--expected", default="", help="text that each answer must contain")
    parser.add_argument("--tree", type=int, default=0, help="process whose processor time is told")
    given = parser.parse_args()
    requests = build_requests(given.bodies.read_bytes().splitlines(), given.path)
    run = Run(given.expected.encode())
    print(json.dumps(drive(given.host, given.port, requests, given, run)))


if __name__ == "__main__":
    main()
