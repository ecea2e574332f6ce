"""Proves the feature layer on this machine: one JSON object per figure on its own line.

    make prove AREA=features

Measured there and then; ends non-zero if a figure falls short.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SUBJECTS = ("features_speed", "freshness", "skew")


def main(chosen: list[str]) -> int:
    """Print every figure of the subjects chosen, or of all; return the exit code."""
    import importlib
    import logging

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    short = 0
    for subject in chosen or SUBJECTS:
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


if __name__ == "__main__":
    for name, value in {"GX_ANALYTICS_ENABLED": "false", "FEAST_USAGE": "False"}.items():
        os.environ.setdefault(name, value)
    sys.exit(main(sys.argv[1:]))
