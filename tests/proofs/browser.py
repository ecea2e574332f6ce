"""The browser tests, counted: real pages in a real browser."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from flows.local.stack_services import PROJECT


def measure() -> Iterator[dict[str, Any]]:
    """Yield how many passed."""
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        report = Path(folder) / "report.xml"
        command = (sys.executable, "-m", "pytest", "-m", "browser", "-q", f"--junitxml={report}")
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        counts = read_counts(report) if report.exists() else {}
    told = {**counts, "exit": done.returncode}
    wrong = sum(counts.get(name, 0) for name in ("failures", "errors", "skipped"))
    passed = done.returncode == 0 and counts.get("tests", 0) > 0 and not wrong
    if not passed:
        print(done.stdout[-4_000:], file=sys.stderr)
    yield {"name": "browser tests", "value": told, "bar": "all pass, none skipped", "ok": passed}


def read_counts(report: Path) -> dict[str, int]:
    """Return a JUnit report's counts."""
    [suite] = ET.parse(report).getroot().iter("testsuite")
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
