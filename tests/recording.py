"""Keeps what became of each test, as evidence for `perennial doctor`: the hooks that conftest takes up."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.code_version import read_code_version
from flows.readiness.records import FILE, ROOT, TestRecord, append_records, hash_code

_found: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run say where its record goes."""
    told = f"where the outcome of each test is kept; default: {FILE} under PERENNIAL_HOME, or var"
    parser.addoption("--record", default="", help=told)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test's outcome: its worst phase counts."""
    if report.when == "call" or report.outcome != "passed":
        _found[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down what this run came to."""
    given = session.config.getoption("--record") or Path(os.environ.get("PERENNIAL_HOME", "var")) / FILE
    if not _found:
        return
    commit, code, now = read_code_version(), hash_code(), datetime.now(UTC).isoformat(timespec="seconds")
    records = [TestRecord(test, outcome, commit, code, now) for test, outcome in _found.items()]
    append_records(ROOT / given, records)
