"""Real SIGKILL at every step of ingest, and two ingests of one period at once.

A child process takes in one real day (12 February 2013, of which one row goes to quarantine). Every call
on its way is a kill point, before and after; commits are also killed midway, by a timer. After each kill
a plain re-run must give tables equal, by hash, to those of a run that nobody disturbed.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Figure = dict[str, Any]
START, DAY = datetime(2013, 1, 25, 5, tzinfo=UTC), datetime(2013, 2, 12, 5, tzinfo=UTC)
NEXT = datetime(2013, 2, 13, 5, tzinfo=UTC)
MIDWAY = (0.5, 1, 2, 3, 5, 8, 13, 21)  # ms after a commit began at which it is killed
LIMIT = 120  # seconds that one child may take


def measure() -> Iterator[Figure]:
    """Yield the figures of kills and of two runs at once."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base, calm = root / "base", root / "calm"
        _run(base, "base")
        shutil.copytree(base, calm)
        points = int(_run(calm, "count").split()[-1])
        wanted = _read_hashes(calm)
        names = [str(n) for n in range(1, points + 1)] + [f"midway-{ms}" for ms in MIDWAY]
        with ThreadPoolExecutor(2) as pool:
            spoilt = [name for name in pool.map(lambda name: _kill(root, name, wanted), names) if name]
        yield {"name": "kill points of ingest", "value": len(names), "bar": ">= 25", "ok": len(names) >= 25}
        yield {
            "name": "kill points after which a re-run gives other tables",
            "value": spoilt,
            "bar": "none",
            "ok": not spoilt,
        }
        yield from _measure_two(root, base, wanted)


def _kill(root: Path, name: str, wanted: dict[str, str]) -> str:
    """Kill a child at one point and run again; return the point's name if the tables differ."""
    home = root / f"killed-{name}"
    shutil.copytree(root / "base", home)
    told = subprocess.run(_command(home, name), capture_output=True, text=True, timeout=LIMIT, check=False)
    if told.returncode != -signal.SIGKILL:
        return f"{name}: was not killed ({told.returncode}) {told.stderr[-300:]}"
    _run(home, "count")
    differing = [table for table, sha in _read_hashes(home).items() if wanted.get(table) != sha]
    shutil.rmtree(home)
    return f"{name}: {', '.join(differing)}" if differing else ""


def _measure_two(root: Path, base: Path, wanted: dict[str, str]) -> Iterator[Figure]:
    said, same = [], []
    for n in range(3):
        home = root / f"two-{n}"
        shutil.copytree(base, home)
        both = [
            subprocess.Popen(
                _command(home, "meet"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        ends = [child.communicate(timeout=LIMIT) for child in both]
        won = sum(child.returncode == 0 for child in both)
        busy = sum("LakeBusy" in err and "expected no other writer" in err for _, err in ends)
        said.append((won, busy))
        same.append(_read_hashes(home) == wanted)
    yield {
        "name": "two ingests of one period at once: (won, said that another writes), three tries",
        "value": said,
        "bar": "(1, 1) each",
        "ok": all(pair == (1, 1) for pair in said),
    }
    yield {
        "name": "tables after two at once equal those of one run",
        "value": same,
        "bar": "all",
        "ok": all(same),
    }


def _command(home: Path, what: str) -> list[str]:
    return [sys.executable, "-m", "tests.proofs.kills", str(home), what]


def _run(home: Path, what: str) -> str:
    told = subprocess.run(_command(home, what), capture_output=True, text=True, timeout=LIMIT, check=False)
    if told.returncode:
        raise RuntimeError(f"{what}: {told.stderr[-2000:]}")
    return told.stdout


def _read_hashes(home: Path) -> dict[str, str]:
    from feature_repo.lake import Lake

    return Lake(home / "lake").hashes()


class Points:
    """Counts the calls on the way, and kills this process at the one that is named."""

    def __init__(self, fatal: str) -> None:
        self.passed = 0
        self._fatal = fatal

    def pass_one(self) -> None:
        """Go past one point, or die at it."""
        self.passed += 1
        if str(self.passed) == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call with a point before and after it."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.pass_one()
            result = call(*args, **kwargs)
            self.pass_one()
            return result

        return watched

    def commit(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a commit with points around it; a kill midway comes in the third one."""
        begun = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            begun.append(1)
            if self._fatal.startswith("midway-") and len(begun) == 3:
                wait = float(self._fatal.removeprefix("midway-")) / 1_000
                threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()
                call(*args, **kwargs)
                threading.Event().wait()  # done before the timer: it dies right after the commit
            return self.around(call)(*args, **kwargs)

        return watched


def act(home: Path, what: str) -> None:
    """Be the child: build the base, or take in the day with points on the way."""
    from feature_repo.contract import Period
    from feature_repo.settings import Settings
    from flows import batches, ingest
    from flows.project import open_project

    project, points = open_project(Settings(home=home, mlflow_port=1)), Points(what)
    if what == "base":
        ingest.ingest_period(project, Period(START, DAY))
        return
    if what == "meet":
        project = _meet(project)
    else:
        object.__setattr__(project, "fetch", points.around(project.fetch))
        for name in ("validate_rows", "split_rows", "quarantine_rows", "record_manifests", "_write_page"):
            setattr(batches, name, points.around(getattr(batches, name)))
        project.lake._write = points.commit(project.lake._write)  # type: ignore[method-assign]
    manifests = ingest.ingest_period(project, Period(DAY, NEXT))
    held = sum(m.quarantined for m in manifests)
    if held != 1 or any(m.status == "stopped" for m in manifests):
        raise RuntimeError(f"expected a landed day with one row in quarantine, got {manifests}")
    print(points.passed)


def _meet(project: Any) -> Any:
    """Return the project with a fetch that takes its time, so that two runs meet."""
    import time

    fetch = project.fetch

    def slowly(*args: Any) -> Any:
        time.sleep(2)
        return fetch(*args)

    object.__setattr__(project, "fetch", slowly)
    return project


if __name__ == "__main__":
    act(Path(sys.argv[1]), sys.argv[2])
