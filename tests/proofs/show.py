"""Prints figures: one JSON object on its own line each, as it is measured."""

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence


def show(subjects: Sequence[str], chosen: Sequence[str]) -> int:
    """Print every figure of the subjects chosen, or of all; return the exit code."""
    import importlib
    import logging

    for name, value in {"GX_ANALYTICS_ENABLED": "false", "FEAST_USAGE": "False"}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    short = 0
    for subject in chosen or subjects:
        began = time.monotonic()
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
