"""What the journal acknowledged is there after kill -9, whoever else was writing."""

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
