"""Schemathesis against a running service: what its OpenAPI document promises, it keeps."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
RUN = """
import sys
from schemathesis.cli import schemathesis
sys.argv[0] = "schemathesis"
schemathesis()
"""


def run_schemathesis(url: str, examples: int, start: int = 0) -> tuple[int, str]:
    """Return how many requests were sent, and what was told if any broke a promise (else empty)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = {
            "--checks": ",".join(CHECKS),
            "--max-examples": str(examples),
            "--seed": str(start),
            "--request-timeout": "20",
            "--report-json-path": str(report),
            "--generation-database": "none",
        }
        flat = [word for pair in words.items() for word in pair]
        done = subprocess.run(
            [sys.executable, "-c", RUN, "run", f"{url}/openapi.json", *flat, "--no-color"],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
        told = json.loads(report.read_text()) if report.is_file() else {}
    sent = int(told.get("test_cases", {}).get("generated", 0))
    return sent, "" if done.returncode == 0 else (done.stdout + done.stderr)[-4_000:]
