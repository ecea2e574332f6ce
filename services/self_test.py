"""Load a package in this process and answer its self-test: `python -m services.self_test FOLDER`."""

import json
import sys
from pathlib import Path

from feature_repo.errors import ModelRefused
from services.models import load_package, measure_latency


def main(arguments: list[str]) -> int:
    """Print the answer time as JSON; on a package that does not hold up, say why and return 1."""
    try:
        package = load_package(Path(arguments[0]))
    except ModelRefused as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"p95_ms": measure_latency(package)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
