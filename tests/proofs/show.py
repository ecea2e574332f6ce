"""Prints figures: one JSON object on its own line each, as it is measured."""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence


def show(subjects: Sequence[str], chosen: Sequence[str]) -> int:
    """Print every figure of the subjects chosen, or of all; return the exit code."""
    names = chosen or subjects
    if len(names) == 1:
        return _show_one(names[0])
    # Each in a process of its own: Prefect's client holds on to the first server that it met.
    codes = [subprocess.run((sys.executable, sys.argv[0], name), check=False).returncode for name in names]
    return 1 if any(codes) else 0


def _show_one(subject: str) -> int:
    import importlib
    import logging

    for name, value in {"GX_ANALYTICS_ENABLED": "false", "FEAST_USAGE": "False"}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    short, began = 0, time.monotonic()
    try:
        for figure in importlib.import_module(f"tests.proofs.{subject}").measure():
            short += not figure["ok"]
            print(json.dumps(figure, default=str), flush=True)
    except Exception as error:  # noqa: BLE001 - it is printed, and counts as short
        short += 1
        traceback.print_exc()
        told = {"name": f"{subject} ran to its end", "value": repr(error), "bar": "no error", "ok": False}
        print(json.dumps(told), flush=True)
    print(f"{subject}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if short else 0
