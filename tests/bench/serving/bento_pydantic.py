"""BentoML with a pydantic model of the row, and the model alone on numbers that are encoded already."""

import json
import os
from pathlib import Path
from typing import Any

import bentoml
import joblib
import numpy as np
from pydantic import create_model

NAMES = json.loads(Path(os.environ["BENCH_NAMES"]).read_text())
FIELDS: dict[str, Any] = dict.fromkeys(NAMES, (float | None, None))
Row: Any = create_model("Row", **FIELDS)


@bentoml.service(workers=1)
class Checked:
    """Answers a list of rows by name."""

    def __init__(self) -> None:
        self.trees = joblib.load(os.environ["BENCH_TREES"])

    @bentoml.api
    def predict(self, rows: list[Row]) -> list[float]:
        """Return each row's probability."""
        matrix = np.array([[getattr(row, name) for name in NAMES] for row in rows], dtype=float)
        return self.trees.predict_proba(matrix)[:, 1].tolist()
