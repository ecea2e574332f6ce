"""The drill as a newcomer runs it: a copy of what is under version control, `make drill`, set-up included."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.drill.incident import MODES, TITLES
from flows.drill.stage import FOLDER
from flows.local.stack_services import PROJECT

Figure = dict[str, Any]
LIMIT = 900.0  # seconds: 15 minutes
PATIENCE = 3_600.0  # seconds until it is given up


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        copy_tracked(clone)
        began = time.monotonic()
        done = run_make(clone, home, "drill")
        seconds = round(time.monotonic() - began)
        record = home / FOLDER / "drill.json"
        modes = (
            {one["mode"]: one for one in json.loads(record.read_text())["modes"]} if record.exists() else {}
        )
        for mode in MODES:
            yield _tell_mode(mode, modes.get(mode))
        sent, failed = (sum(_count(one[name]) for one in modes.values()) for name in ("sent", "failed"))
        told = {"sent": sent, "failed or unanswered": failed}
        yield _figure(
            "drill: requests of the steady load", told, "some sent, 0 failed", sent > 0 and not failed
        )
        yield _figure("drill: exit code", done.returncode, 0, done.returncode == 0)
        page = (home / FOLDER / "drill.html").read_text() if record.exists() else ""
        plots = page.count("<polyline")
        yield _figure(
            "drill: plots in its page, which loads nothing", plots, "some", plots > 0 and "src=" not in page
        )
        left = sorted(path.name for path in (home / FOLDER).iterdir()) if record.exists() else []
        yield _figure("drill: what it leaves in the home", left, ["drill.html", "drill.json"], len(left) == 2)
        name = "drill: seconds from a fresh clone, set-up included"
        yield _figure(
            name, {"seconds": seconds, "cores": os.cpu_count()}, f"under {LIMIT:.0f}", seconds < LIMIT
        )


def copy_tracked(folder: Path) -> None:
    """Copy what is under version control, as a clone would have it."""
    listed = subprocess.run(
        ("git", "ls-files", "-z"), cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)


def run_make(clone: Path, home: Path, target: str) -> "subprocess.CompletedProcess[str]":
    """Run a target of the clone's Makefile on a home, with no other environment of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PERENNIAL_", "PREFECT_", "MLFLOW_"))}
    return subprocess.run(
        ("make", target),
        cwd=clone,
        env={**kept, "PERENNIAL_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def _tell_mode(mode: str, told: dict[str, Any] | None) -> Figure:
    if told is None:
        return _figure(f"drill: {TITLES[mode]}", "no record", "noticed and recovered from", False)
    first = {
        what: next((mark for mark in told["marks"] if mark["what"] == what), None)
        for what in ("noticed", "well")
    }
    value = {
        what: f"{mark['after']:.1f} s, {mark['by']}" if mark else "never" for what, mark in first.items()
    }
    value |= {"why": told["why"]} if told["why"] else {}
    return _figure(f"drill: {TITLES[mode]}", value, "noticed and recovered from", told["ok"])


def _count(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


def _figure(name: str, value: Any, bar: Any, ok: bool) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": ok}
