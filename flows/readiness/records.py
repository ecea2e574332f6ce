"""Records of tests that ran: which, with what outcome, when, and on which code.

The tests write them (tests/recording.py), one line a test; who reads them takes each test's newest line. Code
is told by the content of its files, so that a commit which changes no code makes no record stale.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

FILE = "tests.jsonl"  # under a home
FOLDERS = ("expectations", "feature_repo", "flows", "services")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class TestRecord:
    """One test's outcome (passed, failed, skipped), and the code that it was about."""

    __test__ = False  # no test itself, whatever its name begins with

    test: str
    outcome: str
    commit: str
    code: str
    at: str


@cache
def hash_code(root: Path = ROOT) -> str:
    """Return the hash of all code that is not a test."""
    told = hashlib.sha256()
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            told.update(f"{path.relative_to(root)}\0".encode())
            told.update(hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()[:16]


def append_records(path: Path, records: Iterable[TestRecord]) -> None:
    """Add records; the newest of each test is kept, so that the file does not grow without end."""
    known = {one.test: one for one in (*read_records([path]).values(), *records)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(asdict(one)) + "\n" for one in known.values()))
    part.replace(path)


def read_records(paths: Iterable[Path]) -> dict[str, TestRecord]:
    """Return the newest record of each test; a line that cannot be read is none."""
    found: dict[str, TestRecord] = {}
    for path in paths:
        for line in path.read_text().splitlines() if path.is_file() else ():
            record = _parse(line)
            if record and (record.test not in found or record.at >= found[record.test].at):
                found[record.test] = record
    return found


def _parse(line: str) -> TestRecord | None:
    try:
        return TestRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None
