"""What the journal acknowledged is there after kill -9, whoever else was writing."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from feature_repo.contract import Period
from services.journal import Journal

ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
WRITER = """
import sys
from pathlib import Path
from services.journal import Journal, Prediction
journal = Journal(Path(sys.argv[1]))
for i in range(int(sys.argv[3])):
    name, at = f"{sys.argv[2]}-{i}", "2013-03-01T12:00:00.000000Z"
    journal.append([Prediction(name, name, at, at, None, "prior", "ok", 0.5, "{}", "[]", "{}")])
    print(name, flush=True)
"""


def start_writer(path, name, count):
    command = (sys.executable, "-c", WRITER, str(path), name, str(count))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_names(path):
    return set(Journal(path).read_predictions(ALWAYS)["prediction_id"])


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    """A killed writer has lost nothing that it said was written, and the file goes on."""
    path = tmp_path / "journal.db"
    with start_writer(path, "killed", 1_000_000) as writer:
        acknowledged = [writer.stdout.readline().strip() for _ in range(50)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split()
    # The last line may have been cut off while it was printed.
    assert set(acknowledged[:50]) <= set(acknowledged[:-1]) | {acknowledged[-1]}
    assert set(acknowledged[:-1]) <= read_names(path)
    with start_writer(path, "next", 3) as writer:
        assert writer.stdout.read().split() == ["next-0", "next-1", "next-2"]
    assert {"next-0", "next-1", "next-2"} <= read_names(path)


@pytest.mark.parametrize("writers", [3])
def test_processes_share_the_file(tmp_path, writers):
    """Workers that start and write at once wait for each other and lose nothing."""
    path = tmp_path / "journal" / "journal.db"
    running = [start_writer(path, f"w{i}", 100) for i in range(writers)]
    printed = [writer.communicate()[0].split() for writer in running]
    assert [writer.returncode for writer in running] == [0] * writers
    assert read_names(path) == {name for names in printed for name in names}
    assert len(read_names(path)) == writers * 100


FILLER = """
import resource, sys
from pathlib import Path
from feature_repo.errors import JournalUnavailable
from services.journal import Journal, Prediction
path, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
journal, at = Journal(path), "2013-03-01T12:00:00.000000Z"
def write(name):
    row = Prediction(name, name, at, at, None, "prior", "ok", 0.5, "x" * 20_000, "[]", "{}")
    try:
        journal.append([row])
    except JournalUnavailable:
        return False
    print(name, flush=True)
    return True
refused = 0
for i in range(1_000):
    refused += not write(f"n{i}")
    if refused == 20:
        break
print("refused" if refused == 20 else "never refused", flush=True)
sys.stdin.readline()
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("again" if write("after") else "still refused", flush=True)
"""


def fill(path, limit, free=lambda: None):
    """Write until nothing goes any more, make space, and write once more; return what was told."""
    command = (sys.executable, "-c", FILLER, str(path), str(limit))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        told = []
        while (word := writer.stdout.readline().strip()) not in {"refused", "never refused", ""}:
            told.append(word)
        before = read_names(path)
        free()
        writer.stdin.write("go\n")
        writer.stdin.flush()
        rest = writer.stdout.read().split()
    return told, word, before, rest


def check_filled(path, told, word, before, rest):
    assert word == "refused"
    assert told
    assert set(told) <= before
    assert rest == ["after", "again"]
    assert {*told, "after"} <= read_names(path)


def test_a_file_that_may_not_grow_is_told_and_loses_nothing(tmp_path):
    """What was acknowledged before the limit is there; what comes after is refused until there is room."""
    path = tmp_path / "journal.db"
    check_filled(path, *fill(path, 2_000_000))


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place))
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount; the test beside this one limits the file instead")
    yield place
    subprocess.run(("umount", str(place)), check=True)


def test_a_full_disk_is_told_and_loses_nothing(small_disk):
    """A file system with no room left: refused, everything acknowledged is there, and it goes on after."""
    path, other = small_disk / "journal.db", small_disk / "other"
    other.write_bytes(b"x" * 1_000_000)
    check_filled(path, *fill(path, 0, other.unlink))


def test_a_worker_that_dies_in_its_turn_does_not_stop_the_others(tmp_path):
    """The lock that processes share goes with the process that held it."""
    path = tmp_path / "journal.db"
    running = [start_writer(path, f"w{i}", 1_000_000) for i in range(3)]
    acknowledged = []
    for writer in running:
        acknowledged += [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.communicate()[0].split("\n")[:-1]
    assert set(acknowledged) <= read_names(path)
    assert len(acknowledged) >= 60
