"""What a durable record costs: python tests/bench/bench_journal.py.

Prints one JSON object a line. CPU per record, all threads and the hand-over between them included, for
records that come in groups; beside it the floor, a bare append to a file with one sync a group and with one
a record, and SQLite with one transaction a record. Then several processes on one file: records a second,
and how long a caller waits; beside it, SQLite's own way of waiting for its lock.
"""

import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.journal import Journal, PredictionRow, format_instant
from services.journal_statements import SCHEMA

FEATURES = json.dumps({f"feature_number_{n}": n * 1.234567 for n in range(34)})
REQUEST = json.dumps({f"field_{n}": "some text" for n in range(12)})
GROUPS = (1, 8, 32)
ROUNDS = 3
RECORDS = 2_000  # a round
SECONDS = 2.0  # that the processes write
INSERT = f"INSERT INTO predictions VALUES ({', '.join('?' * 11)})"


def make_rows(count: int) -> list[PredictionRow]:
    """Return records of the bundled problem's size."""
    rows: list[PredictionRow] = []
    for _ in range(count):
        now = datetime.now(UTC)
        at, name = format_instant(now), f"{time.time_ns():016x}-{os.urandom(6).hex()}"
        rows.append((name, "UA-1234-EWR", at, at, "3", "champion", "ok", 0.125, FEATURES, "[]", REQUEST))
    return rows


def write_ours(folder: Path, rows: Sequence[PredictionRow], group: int) -> None:
    """Write as a service does: so many requests at once, one record each."""

    async def write() -> None:
        for start in range(0, len(rows), group):
            await asyncio.gather(*(journal.write([row]) for row in rows[start : start + group]))

    with Journal(folder / "journal.db") as journal:
        asyncio.run(write())


def append_raw(folder: Path, rows: Sequence[PredictionRow], group: int) -> None:
    """Append lines to a file, with one sync a group."""
    descriptor = os.open(folder / "raw.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for start in range(0, len(rows), group):
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows[start : start + group])
        os.write(descriptor, lines)
        os.fdatasync(descriptor)
    os.close(descriptor)


def commit_each(folder: Path, rows: Sequence[PredictionRow], _: int) -> None:
    """Give each record a transaction and a sync of its own."""
    with closing(open_plainly(folder / "each.db")) as connection:
        for row in rows:
            connection.execute(INSERT, row)


def open_plainly(path: Path) -> sqlite3.Connection:
    """Open SQLite with full syncs and its own defaults for the rest."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    for word in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {word}")
    connection.executescript(SCHEMA)
    return connection


WAYS: dict[str, Callable[[Path, Sequence[PredictionRow], int], None]] = {
    "ours": write_ours,
    "bare append, a sync a group": append_raw,
    "bare append, a sync a record": lambda folder, rows, _: append_raw(folder, rows, 1),
    "SQLite, a transaction a record": commit_each,
}


def measure_groups(group: int) -> dict[str, Any]:
    """Return microseconds of CPU and of time per record, the medians of interleaved rounds."""
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    wall: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, write in WAYS.items():
            rows = make_rows(RECORDS)
            with tempfile.TemporaryDirectory() as folder:
                began, used = time.perf_counter(), time.process_time()
                write(Path(folder), rows, group)
                cpu[name].append((time.process_time() - used) / RECORDS * 1e6)
                wall[name].append((time.perf_counter() - began) / RECORDS * 1e6)
    return {
        "records that come at once": group,
        "CPU, microseconds per record": {name: round(statistics.median(n), 1) for name, n in cpu.items()},
        "time, microseconds per record": {name: round(statistics.median(n), 1) for name, n in wall.items()},
    }


def measure_processes(way: str, processes: int) -> dict[str, Any]:
    """Return how several processes, eight callers each, share one file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", way, folder]
        started = [subprocess.Popen([*command, str(n)]) for n in range(processes)]
        log, most = Path(folder) / "journal.db-wal", 0
        while any(one.poll() is None for one in started):
            most = max(most, log.stat().st_size if log.exists() else 0)
            time.sleep(0.05)
        told = [json.loads((Path(folder) / f"{n}.json").read_text()) for n in range(processes)]
    waits = sorted(wait for one in told for wait in one["waits"])
    return {
        "processes": processes,
        "way": way,
        "records a second": round(len(waits) / SECONDS),
        "CPU, microseconds per record": round(sum(one["cpu"] for one in told) / len(waits) * 1e6, 1),
        "wait, ms": {
            name: round(waits[min(int(len(waits) * share), len(waits) - 1)] * 1e3, 2)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0))
        },
        "log at most, MB": round(most / 1e6, 1),
    }


def run_child(way: str, folder: Path, name: str) -> None:
    """Write for some seconds and tell how long each record was waited for."""
    waits: list[float] = []
    path, used, end = folder / "journal.db", time.process_time(), time.time() + SECONDS
    if way == "ours":
        with Journal(path) as journal:
            asyncio.run(_call(journal, waits, end))
    else:
        with closing(open_plainly(path)) as connection:
            while time.time() < end:
                rows, since = make_rows(8), time.perf_counter()
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(INSERT, rows)
                connection.execute("COMMIT")
                waits += [time.perf_counter() - since] * len(rows)
    (folder / f"{name}.json").write_text(json.dumps({"waits": waits, "cpu": time.process_time() - used}))


async def _call(journal: Journal, waits: list[float], end: float) -> None:
    async def call() -> None:
        while time.time() < end:
            rows, since = make_rows(1), time.perf_counter()
            await journal.write(rows)
            waits.append(time.perf_counter() - since)

    await asyncio.gather(*(call() for _ in range(8)))


def main() -> None:
    """Print everything."""
    for group in GROUPS:
        print(json.dumps(measure_groups(group)), flush=True)
    for processes in (1, 2, 4):
        for way in ("ours", "SQLite's own lock"):
            print(json.dumps(measure_processes(way, processes)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main()
