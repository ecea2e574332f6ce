"""Incidents injected into what runs: each is one alert at the webhook, and one all-clear when it is over.

Real service, reports, Prometheus and Alertmanager; the configuration of infra, twenty times as fast. Days are
judged as they end and weeks when their labels are there: verdicts come in the order of the daily loop.
"""

import contextlib
import fcntl
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.proofs.monitored import FIRST, LIMIT, PACE, WEEK, World, await_champion, running_world

Figure = dict[str, Any]
Incident = Callable[[World], contextlib.AbstractContextManager[None]]
SETTLED = 45.0 * 20 * PACE  # seconds after the last all-clear in which nothing more may come

# The drift is told twice: as soon as a day has ended, as an early sign, and when the week is judged.
EARLY = [("day", ["DayUnusual"])]


def measure(chosen: str = "") -> Iterator[Figure]:
    """Yield the figures, of all incidents or of those whose names hold the word chosen."""
    incidents: dict[str, tuple[str, str, Incident]] = {
        "coverage: the champion's alias is taken away": ("coverage", "CoverageLow", _lose_champion),
        "error rate: the journal's lock is held": ("answers", "ErrorRateHigh", _hold_journal),
        "p99: the journal's disk is slow": ("latency", "LatencyHigh", _slow_journal),
        "data quality: a batch without rows": ("data", "DataStopped", _break_batch),
        "drift: a week in another unit, told days after it ended": ("model", "InputsDrifted", _drift),
        "quality: a week whose outcomes are the opposite": ("model", "QualityLow", _lose_quality),
    }
    incidents = {name: scene for name, scene in incidents.items() if chosen in name}
    with (
        tempfile.TemporaryDirectory(prefix="alerts-") as folder,
        running_world(Path(folder) / "home") as world,
    ):
        time.sleep(20 * 20 * PACE)  # a first look at what runs well
        early = len(world.receiver.messages)
        yield _tell("messages before anything was injected", early, 0, early == 0, _list(world))
        for name, (incident, alert, inject) in incidents.items():
            world.await_quiet()
            before = len(world.receiver.messages)
            with inject(world):
                began = time.monotonic()
                raised = world.receiver.await_message(incident, "firing", LIMIT, before)
                took = time.monotonic() - began
            over = time.monotonic()
            cleared = world.receiver.await_message(incident, "resolved", LIMIT, before)
            facts = {
                "alert": sorted(raised.names) if raised else None,
                "seconds_to_alert": round(took, 1),
                "seconds_to_all_clear": round(time.monotonic() - over, 1) if cleared else None,
                "summary": raised.whole["alerts"][0]["annotations"]["summary"] if raised else None,
            }
            print(name, facts, file=sys.stderr, flush=True)
            world.load.cut()
            yield _tell(
                f"{name}: raises {alert} and clears it",
                facts["alert"],
                [alert],
                bool(raised and cleared and raised.names == {alert}),
                facts,
            )
        time.sleep(SETTLED)
        told = [(incident, [alert]) for incident, alert, _ in incidents.values()] + EARLY
        for incident, names in told:
            counts = [
                sum(m.names == {*names} for m in world.receiver.find(incident, status))
                for status in ("firing", "resolved")
            ]
            name = f"{names[0]}: alerts and all-clears at the webhook"
            yield _tell(name, counts, [1, 1], counts == [1, 1])
        more = len(world.receiver.messages) - 2 * len(told)
        yield _tell("further messages of any kind", more, 0, more == 0, _list(world))


@contextlib.contextmanager
def _lose_champion(world: World) -> Iterator[None]:
    world.registry.delete_alias("champion")
    try:
        yield
    finally:
        world.registry.set_alias("champion", world.version)
        await_champion(world.settings, world.version)


@contextlib.contextmanager
def _hold_journal(world: World) -> Iterator[None]:
    descriptor = os.open(world.journal_lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _slow_journal(world: World) -> Iterator[None]:
    """Hold the lock for 0.4 s again and again: whoever writes waits."""
    ended = threading.Event()

    def hold() -> None:
        descriptor = os.open(world.journal_lock, os.O_RDWR)
        while not ended.is_set():
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            time.sleep(0.4)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            time.sleep(0.02)
        os.close(descriptor)

    thread = threading.Thread(target=hold, name="slow journal")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _break_batch(world: World) -> Iterator[None]:
    day = FIRST + timedelta(days=1)
    world.damaged.add(day)
    assert "stopped" in world.take_in(day)
    try:
        yield
    finally:
        world.damaged.clear()
        assert "stopped" not in world.take_in(day)


@contextlib.contextmanager
def _drift(world: World) -> Iterator[None]:
    """Five odd days are told at once; two well days end that; then the week is judged, then a well one."""
    world.live(5, drifted=True)
    print(world.watch(), file=sys.stderr, flush=True)
    assert world.receiver.await_message("day", "firing", LIMIT), "an odd day reached nobody"
    world.live(2)
    assert "drift" in _find_week(world.watch())
    try:
        yield
    finally:
        world.live(7)
        assert not _find_week(world.watch())


@contextlib.contextmanager
def _lose_quality(world: World) -> Iterator[None]:
    world.live(5, wrong=True)
    world.live(2)
    assert "quality" in _find_week(world.watch())
    try:
        yield
    finally:
        world.live(7)
        assert not _find_week(world.watch())


def _find_week(told: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return what the one week of what was judged has breached."""
    print(told, file=sys.stderr, flush=True)
    [breaches] = [found for key, found in told.items() if _measure(key) == WEEK]
    return breaches


def _measure(key: str) -> timedelta:
    since, until = (datetime.strptime(part, "%Y%m%dT%H%M%z") for part in _list_ends(key))
    return until - since


def _list_ends(key: str) -> list[str]:
    return [f"{part}+0000" for part in key.split("-")[:2]]


def _list(world: World) -> dict[str, Any]:
    return {"messages": [f"{m.status} {m.incident} {sorted(m.names)}" for m in world.receiver.messages]}


def _tell(name: str, value: Any, bar: Any, ok: bool, facts: dict[str, Any] | None = None) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok), **(facts or {})}
