"""Loads a model package in a clean process and answers its self-test: python -m services.self_test FOLDER."""

import json
import sys
from pathlib import Path

from feature_repo.errors import ModelRefused
from services.package import load_package, measure_latency


def main(arguments: list[str]) -> int:
    """Print the 95th percentile of latency as JSON; 1, and the reason on stderr, if refused."""
    folder = Path(arguments[0])
    try:
        package = load_package(folder)
    except ModelRefused as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps({"p95_ms": measure_latency(package, folder)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
