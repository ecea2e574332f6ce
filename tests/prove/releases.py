"""Proves releases on this machine: one JSON object per figure on its own line.

    make prove AREA=releases

Measured there and then; ends non-zero if a figure falls short.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SUBJECTS = ("releases", "rollback")

if __name__ == "__main__":
    from tests.proofs.show import show

    sys.exit(show(SUBJECTS, sys.argv[1:]))
