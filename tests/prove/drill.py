"""Proves the drill, the readiness report and the screens on this machine: one JSON object per figure.

    make prove AREA=drill

Measured there and then; ends non-zero if a figure falls short.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SUBJECTS = ("drill", "defences", "readiness", "browser")

if __name__ == "__main__":
    from tests.proofs.show import show

    sys.exit(show(SUBJECTS, sys.argv[1:]))
