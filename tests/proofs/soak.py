"""A million requests to the real service, one worker: its memory stays where it was.

Most ask about one flight, some about up to three; none is the same as the one before. The journal grows by
about a kilobyte a row, in a folder that is removed afterwards.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.bench.serving.material import ROOT, Material, prepare
from tests.bench.serving.own import CHAMPION, serve_own

REQUESTS, CONCURRENCY = 1_000_000, 16
LISTS = 10  # one request in so many is a list of 2 or 3 flights
SETTLING = 0.2  # share of the requests within which caches and pools fill
MAX_GROWTH = 0.05  # of the memory after settling, until the end
EVERY = 0.5  # seconds between two looks at the memory


def measure(requests: int = REQUESTS) -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    material = prepare()
    with tempfile.TemporaryDirectory(prefix="soak-") as name, serve_own(material, Path(name)) as running:
        bodies, rows_each = write_bodies(material, Path(name) / "soak.jsonl")
        looks, told = drive(running.peer.port, running.process.pid, bodies, requests)
        journal = sum(path.stat().st_size for path in (Path(name) / "own" / "home" / "journal").rglob("*"))
    sent = told["requests"]
    facts = {
        "rows_per_second": told["rps"] * rows_each,
        "journal_mb": journal / 1e6,
        "seconds": told["seconds"],
    }
    failed = f"soak: requests of {sent:,} not answered by the champion"
    yield _figure(
        failed, told["failed"], f"0 of {requests:,}", not told["failed"] and sent >= requests, **facts
    )
    growth, slope, start = find_growth(looks)
    more = {"mb_after_settling": start, "mb_per_million_requests": slope, "looks": len(looks)}
    bar = f"<= {MAX_GROWTH:g}"
    yield _figure(
        "soak: growth of the service's memory after settling", growth, bar, growth <= MAX_GROWTH, **more
    )


def write_bodies(material: Material, file: Path) -> tuple[Path, float]:
    """Write the requests, and return them and how many rows each has on average."""
    flights, told, rows = itertools.cycle(material.flights), [], 0
    for i in range(5_003):  # prime to the number of flights, so that lists differ from turn to turn
        count = 2 + i % 2 if i % LISTS == 0 else 1
        some = list(itertools.islice(flights, count))
        told.append(json.dumps(some if count > 1 else some[0]) + "\n")
        rows += count
    file.write_text("".join(told))
    return file, rows / len(told)


def drive(port: int, pid: int, bodies: Path, requests: int) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """Send, and return the memory in MB at so many requests sent, and the client's figures."""
    words = {
        "--port": port,
        "--path": "/predict",
        "--bodies": bodies,
        "--concurrency": CONCURRENCY,
        "--requests": requests,
        "--expected": CHAMPION,
    }
    flat = [str(word) for pair in words.items() for word in pair]
    client = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "bench" / "serving" / "client.py"), *flat],
        stdout=subprocess.PIPE,
        text=True,
    )
    looks: list[tuple[float, float]] = []
    began = time.monotonic()
    while client.poll() is None:
        looks.append((time.monotonic() - began, read_memory(pid)))
        time.sleep(EVERY)
    printed = client.communicate()[0]
    if client.returncode:
        raise RuntimeError(f"the load client ended with {client.returncode}; what it said is above")
    told = json.loads(printed)
    lasted = max(looks[-1][0], 1e-9)
    return [(int(told["requests"] * at / lasted), mb) for at, mb in looks], told


def read_memory(pid: int) -> float:
    """Return the resident memory of a process and its descendants in MB, without what files they share."""
    process, total = psutil.Process(pid), 0
    for one in (process, *process.children(recursive=True)):
        held = one.memory_info()
        total += held.rss - held.shared
    return total / 1e6


def find_growth(looks: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """Return the growth along a straight line after settling, its slope a million requests, and its start."""
    settled = [look for look in looks if look[0] >= SETTLING * looks[-1][0]]
    sent, held = np.array(settled, dtype=float).T
    slope, at_none = np.polyfit(sent, held, 1)
    start, end = at_none + slope * sent[0], at_none + slope * sent[-1]
    return float((end - start) / start), float(slope * 1e6), float(start)


def _figure(name: str, value: object, bar: str, ok: bool, **told: object) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok), **told}
