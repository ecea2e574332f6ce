"""Flame graphs of a running service, drawn by py-spy from outside it (needs `--peers all` once)."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from tests.bench.serving.installing import PYTHON

FORMATS = {"flamegraph": "svg", "speedscope": "speedscope.json"}
RATE = 250  # samples a second


def draw(pid: int, folder: Path, load: Callable[[], object], seconds: float) -> list[Path]:
    """Write a picture, and a file for speedscope, of a process and its children under load."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, ending in FORMATS.items():
        file = folder / f"serving.{ending}"
        under_load = threading.Thread(target=load)
        under_load.start()
        words = ("--pid", str(pid), "--subprocesses", "--format", kind, "--output", str(file))
        options = ("--rate", str(RATE), "--duration", str(int(seconds)))
        try:
            command = (str(PYTHON.with_name("py-spy")), "record", *words, *options)
            subprocess.run(command, check=True, capture_output=True, text=True)
        finally:
            under_load.join()
        files.append(file)
    return files
