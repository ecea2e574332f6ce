"""A version alone in a process of its own: what it takes to answer there is its own doing."""

import json
import os
import subprocess
import sys
from pathlib import Path

TIME_LIMIT = 120  # seconds for a clean process to load the version and answer


def answer_in_clean_process(package: Path) -> tuple[float | None, str]:
    """Run a version's self-test in a fresh interpreter; return (95th percentile in ms of CPU, complaint)."""
    command = [sys.executable, "-m", "services.self_test", str(package)]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as the service runs
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIME_LIMIT} s"
    if done.returncode != 0:
        return None, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
    try:
        return float(json.loads(done.stdout)["p95_ms"]), ""
    except (ValueError, KeyError, TypeError):
        return None, f"it printed {done.stdout[:100]!r}"
