"""Traffic over HTTP for a replay: what clients would ask, when they would ask it."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import polars as pl

from feature_repo.contract import Period, Problem

BATCH = 1_000
TIMEOUT = 30.0


def sample_requests(requests: pl.DataFrame, problem: Problem, period: Period, size: int) -> pl.DataFrame:
    """Return at most `size` of the requests decided in the period, the same ones every time."""
    within = pl.col(problem.decided_at).is_between(period.since, period.until, closed="left")
    asked = requests.filter(within)
    # Chosen by a hash of the entity: no clock and no generator state decides who is asked about.
    order = asked[problem.entity].hash(seed=2013)
    return asked.with_columns(_order=order).sort("_order").head(size).drop("_order").sort(problem.decided_at)


def to_json(row: dict[str, Any], problem: Problem, requested_at: datetime | None = None) -> dict[str, Any]:
    """Return a request as a client sends it."""
    left_out = {problem.entity, problem.decided_at}
    body = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if name not in left_out
    }
    return {**body, "requested_at": requested_at.isoformat()} if requested_at else body


class Load(threading.Thread):
    """Steady single requests in the background, about things that will be asked in the next hours.

    Each is asked as of the newest tick that the online store holds, so that its features are fresh.
    """

    def __init__(self, url: str, problem: Problem, per_second: float) -> None:
        super().__init__(daemon=True, name="load")
        self._url, self._problem, self._pause = url, problem, 1 / per_second
        self.pool: list[dict[str, Any]] = []
        self._ended = threading.Event()
        self.sent = 0
        self.failed: list[str] = []
        self.versions: Counter[str] = Counter()

    def point_at(self, upcoming: pl.DataFrame, tick: datetime) -> None:
        """Ask from now on about requests decided within eight hours after the tick."""
        ahead = pl.col(self._problem.decided_at).is_between(tick, tick + timedelta(hours=8))
        rows = upcoming.filter(ahead).to_dicts()
        if rows:
            self.pool = [to_json(row, self._problem, tick) for row in rows]

    def run(self) -> None:
        """Send until `end` is called."""
        with httpx.Client(timeout=TIMEOUT) as client:
            while not self._ended.wait(self._pause):
                pool = self.pool
                if pool:
                    self._send(client, pool[self.sent % len(pool)])

    def end(self) -> None:
        """Stop sending and wait for the last answer."""
        self._ended.set()
        self.join(TIMEOUT)

    def _send(self, client: httpx.Client, body: dict[str, Any]) -> None:
        self.sent += 1
        try:
            answer = client.post(f"{self._url}/predict", json=body)
            if answer.status_code == httpx.codes.OK:
                told = answer.json()
                self.versions[f"{told['served_by']} {told['model_version']}"] += 1
            else:
                self.failed.append(f"HTTP {answer.status_code}: {answer.text[:200]}")
        except httpx.HTTPError as error:
            self.failed.append(repr(error))


def ask(client: httpx.Client, url: str, rows: Sequence[dict[str, Any]], problem: Problem) -> Counter[str]:
    """Ask about many things in as few requests as may be; return answers by who gave them."""
    served: Counter[str] = Counter()
    for start in range(0, len(rows), BATCH):
        body = [to_json(row, problem) for row in rows[start : start + BATCH]]
        answer = client.post(f"{url}/predict", json=body, timeout=TIMEOUT)
        answer.raise_for_status()
        told = answer.json()
        served.update(item["served_by"] for item in told["predictions"])
    return served


def await_version(url: str, version: int, workers: int, limit: float) -> float | None:
    """Wait until `workers` processes say that they serve the version; return the seconds, or None."""
    began = time.monotonic()
    seen: dict[int, str] = {}
    while time.monotonic() - began < limit:
        # A new connection each time, so that every worker gets its turn.
        try:
            told = httpx.get(f"{url}/live", timeout=5).json()
        except (httpx.HTTPError, ValueError):
            time.sleep(0.05)
            continue
        seen[told["pid"]] = str(told["champion"])
        if list(seen.values()).count(str(version)) >= workers:
            return time.monotonic() - began
        time.sleep(0.01)
    return None
