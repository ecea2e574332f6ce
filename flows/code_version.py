"""Which code ran: the commit, or the installed version where there is no repository."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def read_code_version() -> str:
    """Return the commit's hash, with `+changes` if files differ from it; else the package's version."""
    root = Path(__file__).resolve().parents[1]
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        try:
            return version("perennial")
        except PackageNotFoundError:
            return "unknown"
    return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
