"""The service's image: built with no layer of an earlier build, run, and asked."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feature_repo.errors import PerennialError
from feature_repo.problem import PROBLEM
from tests import image
from tests.image_home import ask, fill_store, make_home
from tests.packages import write_package

TAG = "localhost/perennial-proof:latest"
STARTS = 3
LARGEST = 1_000.0  # MB, base included
SLOWEST = 60.0  # seconds to ready on a machine of two cores


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    lacking = image.find_lacking()
    if lacking:
        raise PerennialError(
            "building an image",
            got=f"no {', '.join(lacking)}",
            expected="buildah and debootstrap",
            next_step=f"apt-get install {' '.join(lacking)}",
        )
    with tempfile.TemporaryDirectory() as folder:
        built = _build(write_package(Path(folder) / "package", PROBLEM))
        try:
            yield from _measure(Path(folder), built)
        finally:
            image.delete_image(TAG)


def _build(package: Path) -> float:
    """Build the image, of which nothing but the base is there already; return the seconds that it took."""
    image.build_base()
    began = time.monotonic()
    image.build_image(TAG, package, "7", fresh=True)
    return time.monotonic() - began


def _measure(folder: Path, built: float) -> Iterator[dict[str, Any]]:
    fill_store(folder / "filled")
    answers, starts = [], []
    for i in range(STARTS):
        home = make_home(folder / f"home-{i}", folder / "filled")
        with image.running(TAG, home, folder / "log") as container:
            answers.append(ask(container.url))
            starts.append(container.seconds)
    good = [a for a in answers if (a["served_by"], a["model_version"]) == ("champion", "7")]
    yield {
        "name": "image: containers that answered from the model baked in",
        "value": len(good),
        "bar": str(STARTS),
        "ok": len(good) == STARTS,
        "build_seconds": round(built),
    }
    size = image.measure_size(TAG)
    yield {"name": "image: size, MB", "value": round(size), "bar": f"<= {LARGEST:g}", "ok": size <= LARGEST}
    start = statistics.median(starts)
    yield {
        "name": "image: time from start to ready, s, median",
        "value": round(start, 1),
        "bar": f"<= {SLOWEST:g}",
        "ok": start <= SLOWEST,
        "starts": [round(one, 1) for one in starts],
    }
