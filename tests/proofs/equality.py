"""The model as it is served answers as scikit-learn does, on every flight of the year."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.problem import PROBLEM
from tests.bench.serving.material import prepare, to_frame, write_model

CHUNK = 10_000
MIN_ROWS = 300_000
TOLERANCE = 1e-6
ALTERED, ALONE = 30_000, 3_000  # rows with holes and unknown categories; rows asked one by one
Rows = list[dict[str, Any]]


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    from services.package import load_package

    material = prepare()
    estimator = material.load_estimator()
    with tempfile.TemporaryDirectory() as folder:
        package = load_package(write_model(material, Path(folder) / "package"), "1")
        rows: Rows = material.read_rows().select(PROBLEM.feature_names).to_dicts()
        worst = max(_compare(package, estimator, rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK))
        name = f"equality: largest difference from scikit-learn on {len(rows):,} real rows"
        yield _figure(name, worst, f"<= {TOLERANCE:g} on {MIN_ROWS:,} or more", len(rows) >= MIN_ROWS, worst)
        altered = [_alter(row, random.Random(i)) for i, row in enumerate(rows[:: len(rows) // ALTERED])]
        worst = _compare(package, estimator, altered)
        name = f"equality: the same on {len(altered):,} rows with holes and unknown categories"
        yield _figure(name, worst, f"<= {TOLERANCE:g}", True, worst)
        some = rows[:: len(rows) // ALONE]
        alone = [package.predict([row])[0] for row in some]
        worst = float(np.abs(np.array(alone) - np.array(package.predict(some))).max())
        name = f"equality: the same of {len(some):,} rows asked one by one and at once"
        yield _figure(name, worst, f"<= {TOLERANCE:g}", True, worst)


def _compare(package: Any, estimator: Any, rows: Sequence[dict[str, Any]]) -> float:
    theirs = estimator.predict_proba(to_frame(list(rows)))[:, 1]
    return float(np.abs(np.array(package.predict(rows)) - theirs).max())


def _alter(row: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a row with a third of its values missing, and one of its categories in ten unknown."""
    holes = {name: None for name in row if chance.random() < 1 / 3}
    unknown = {name: chance.choice(("ZZZ", "", "0", "-1")) for name in PROBLEM.categories}
    return {**row, **holes, **{name: text for name, text in unknown.items() if chance.random() < 0.1}}


def _figure(name: str, value: float, bar: str, ok: bool, worst: float) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok and worst <= TOLERANCE)}
