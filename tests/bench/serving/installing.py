"""The peers' own set of packages, in a virtual environment of its own: peers.lock names all of it."""

import subprocess
import sys

from tests.bench.serving.material import ROOT

LOCK = ROOT / "tests" / "bench" / "peers.lock"
VENV = ROOT / "var" / "bench" / "peers"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.lock"


def is_installed() -> bool:
    """Return whether what the lock names is there."""
    return STAMP.is_file() and STAMP.read_bytes() == LOCK.read_bytes()


def install() -> None:
    """Install what the lock names, if it is not there yet; a gigabyte."""
    if is_installed():
        return
    uv = (sys.executable, "-m", "uv")
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)], check=True)
    words = ("pip", "install", "--quiet", "--require-hashes", "--python", str(PYTHON), "-r", str(LOCK))
    subprocess.run([*uv, *words], check=True)
    STAMP.write_bytes(LOCK.read_bytes())
