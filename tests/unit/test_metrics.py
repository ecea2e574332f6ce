"""The service's metrics: conventions, and counts that are right over workers that live and die."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.metrics import EXPECTED, Metrics

WORKER = """
import sys, time
from services.metrics import Metrics
metrics = Metrics()
metrics.note_start()
metrics.requests.labels("/predict", "200").inc(10)
metrics.seconds.observe(0.003)
metrics.note_lag(3, 5, float(sys.argv[1]))
metrics.note_serving((None, None, None), ("7", None, None))
print("counted", flush=True)
time.sleep(60)
"""
ASK = """
from services.metrics import Metrics
print(Metrics().render()[0].decode())
"""
FULL = """
import errno, os, sys
from services import metric_files
from services.metrics import Metrics
real, rooms = os.posix_fallocate, [0] * int(sys.argv[1])
def allocate(*asked):
    if not rooms:
        raise OSError(errno.ENOSPC, "No space left on device")
    rooms.pop()
    return real(*asked)
os.posix_fallocate = allocate
metrics = Metrics()
metrics.note_start()
for i in range(2_000):
    metrics.flags.labels(f"feature_{i}", "unseen").inc(i)
metrics.requests.labels("/predict", "200").inc(10)
for i in range(2_000):
    assert metrics.flags.labels(f"feature_{i}", "unseen")._value.get() == i
assert metrics.requests.labels("/predict", "200")._value.get() == 10
metrics.render()
"""
UNITS = ("_seconds", "_rows", "_total", "_info", "_workers", "_ratio")


def read(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return samples by name and values of labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Workers:
    """Processes that count into one folder, as the workers of a service do."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
            "PYTHONPATH": str(Path.cwd()),
        }
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """Start one that has counted when this returns."""
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(seconds)],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        return process

    def ask(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Return what any worker tells of all of them."""
        done = subprocess.run(
            [sys.executable, "-c", ASK], env=self.environment, capture_output=True, text=True, check=True
        )
        return read(done.stdout)

    def end(self) -> None:
        """End all that are left."""
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Return a maker of workers on a folder of their own."""
    made = Workers(tmp_path)
    yield made
    made.end()


def test_counts_are_right_over_workers_and_after_one_was_killed(workers: Workers) -> None:
    """A killed worker's counts stay; what it showed of itself goes with it, though none has started since."""
    first = workers.start(2.0)
    workers.start(0.5)
    both = workers.ask()
    assert both["perennial_requests_total", ("/predict", "200")] == 20
    assert both["perennial_predict_seconds_count", ()] == 2
    assert both["perennial_workers", ()] == 2
    assert both["perennial_waiting_rows", ()] == 6
    assert both["perennial_journal_waiting_seconds", ()] == 2.0
    assert both["perennial_serving_workers", ("champion", "7")] == 2
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = workers.ask()
    assert left["perennial_requests_total", ("/predict", "200")] == 20
    assert left["perennial_predict_seconds_count", ()] == 2
    assert left["perennial_workers", ()] == 1
    assert left["perennial_waiting_rows", ()] == 3
    assert left["perennial_journal_waiting_seconds", ()] == 0.5
    assert left["perennial_serving_workers", ("champion", "7")] == 1
    workers.start(0.5)
    # What the dead one counted is still there, so the counting began when it did.
    started = "perennial_start_timestamp_seconds", ()
    assert 0 < both[started] == left[started] == workers.ask()[started] < time.time()


def test_names_follow_the_conventions_and_every_metric_says_what_it_is() -> None:
    """A name ends in its unit or kind, in base units; a counter in _total; each has a text of help."""
    metrics = Metrics(CollectorRegistry())
    metrics.note_start()
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        assert family.name.startswith("perennial_")
        if family.name.endswith("_created"):  # added by the library
            continue
        assert family.documentation
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if family.type != "gauge" or not name.endswith("workers"):
            assert name.endswith(UNITS), name
        assert not re.search(r"_(ms|minutes|hours|percent|kb|mb)\b", name)


def test_what_alerts_rate_stands_at_zero_from_the_start() -> None:
    """A series that appears with its first event would have no rate, and its alert no cause."""
    metrics = Metrics(CollectorRegistry())
    metrics.note_start()
    samples = read(metrics.render()[0].decode())
    zeros = {(name, frozenset(labels)) for (name, labels), value in samples.items() if value == 0}
    for name, series in EXPECTED.items():
        for labels in series:
            assert (f"perennial_{name}_total", frozenset(labels)) in zeros
    for name in ("store_failures", "refused_versions", "swaps", "predictions"):
        assert samples[f"perennial_{name}_total", ()] == 0


def test_the_age_of_features_stands_beside_its_limit() -> None:
    """The limit is told by view, so that one rule serves every problem."""
    metrics = Metrics(CollectorRegistry())
    metrics.note_limits({"shop_daily": 3_600.0})
    assert read(metrics.render()[0].decode())["perennial_feature_limit_seconds", ("shop_daily",)] == 3_600


def test_files_of_metrics_have_their_room_on_the_disk(workers: Workers, tmp_path: Path) -> None:
    """A page that is first touched on a full disk would be a signal that ends the worker."""
    workers.start(0.0)
    told = {path.name: path.stat() for path in tmp_path.glob("*.db")}
    assert told
    assert {name for name, stat in told.items() if 512 * stat.st_blocks < stat.st_size} == set()


@pytest.mark.parametrize("rooms", [0, 2, 4, 5, 99])
def test_a_worker_counts_on_when_the_disk_has_no_room_for_its_metrics(
    workers: Workers, tmp_path: Path, rooms: int
) -> None:
    """From its start or from the moment that a file has to grow; what it counts is its own then."""
    command = [sys.executable, "-c", FULL, str(rooms)]
    subprocess.run(command, env=workers.environment, capture_output=True, text=True, check=True)
    workers.start(0.0)
    expected = 20 if rooms == 99 else 10
    assert workers.ask()["perennial_requests_total", ("/predict", "200")] == expected
    for path in tmp_path.glob("*.db"):
        assert 512 * path.stat().st_blocks >= path.stat().st_size
