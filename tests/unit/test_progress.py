"""Progress says how far work is and about how long the rest takes, and never gets into the answers."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flows import progress
from flows.progress import Gauge, read_timings, report, showing, tell_seconds


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def gauge(usual: float | None, took: float, done: int, total: int) -> Gauge:
    clock = Clock()
    made = Gauge("backfill", usual, clock)
    made.note(done, total, "days taken in")
    clock.now = took
    return made


@pytest.mark.parametrize(
    ("usual", "took", "done", "total", "left"),
    [
        (None, 10.0, 0, 0, None),  # the first time, and nothing reported
        (None, 10.0, 20, 60, 20.0),  # the pace of many steps
        (99.0, 10.0, 20, 60, 20.0),  # which says more than the last time, of another length perhaps
        (30.0, 10.0, 1, 3, 20.0),  # few and unlike steps say less than the last time
        (None, 10.0, 1, 3, 20.0),  # and are all that there is the first time
        (30.0, 40.0, 1, 3, 0.0),  # what takes longer than the last time is never less than nothing
    ],
)
def test_the_rest_is_estimated_by_what_is_known(
    usual: float | None, took: float, done: int, total: int, left: float | None
) -> None:
    """By pace where there are many like steps, by the last time elsewhere, and not at all without either."""
    assert gauge(usual, took, done, total).estimate() == left


def test_a_line_says_how_far_what_how_long_and_the_rest() -> None:
    """All that a person wants to know while waiting, in one line."""
    assert gauge(None, 10.0, 20, 60).tell() == "20 of 60, days taken in, 10 s, about 20 s left"
    assert gauge(None, 3.0, 0, 0).tell() == "days taken in, 3 s, no estimate yet"
    assert tell_seconds(240) == "4 min"


def test_what_work_took_is_known_the_next_time(tmp_path: Path) -> None:
    """Work that ended well is kept, work that failed is not."""
    with showing("train", tmp_path, Console(file=io.StringIO())):
        report(1, 3, "training")
    assert set(read_timings(tmp_path)) == {"train"}
    with pytest.raises(ValueError, match="no"), showing("ingest", tmp_path, Console(file=io.StringIO())):
        raise ValueError("no")
    assert set(read_timings(tmp_path)) == {"train"}


def test_the_newest_report_is_shown_and_nobody_listens_afterwards(tmp_path: Path) -> None:
    """A report goes to whoever shows progress at the time, and nowhere else."""
    with showing("train", tmp_path, Console(file=io.StringIO())) as shown:
        report(2, 3, "judging")
        assert (shown.done, shown.total, shown.what) == (2, 3, "judging")
    report(3, 3, "done")
    assert shown.done == 2
    assert progress._listeners == []


def test_a_damaged_file_of_timings_costs_the_estimate_alone(tmp_path: Path) -> None:
    """It is an aid, not a need."""
    (tmp_path / progress.KEPT).write_text('{"train": "soon"}')
    assert read_timings(tmp_path) == {}


def test_a_pipe_gets_plain_lines_on_stderr_and_clean_answers(tmp_path: Path) -> None:
    """What reads stdout gets the answer alone."""
    code = f"""
import time
from pathlib import Path
from flows import progress
progress.LINE_SECONDS = 0.01
with progress.showing("backfill", Path({str(tmp_path)!r})):
    progress.report(3, 59, "days taken in")
    time.sleep(0.5)
print("answer")
"""
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout == "answer\n"
    assert "backfill: 3 of 59, days taken in" in done.stderr
    assert "\x1b" not in done.stderr
