"""BentoML as its guide shows it: an API method that takes a DataFrame, and the whole pipeline."""

import os
from pathlib import Path

import bentoml
import numpy as np
import pandas as pd
import skops.io

TRUSTED = os.environ["BENCH_TRUSTED"].split(",")


@bentoml.service(workers=1)
class Frame:
    """Answers a list of rows by name."""

    def __init__(self) -> None:
        self.pipeline = skops.io.load(Path(os.environ["BENCH_MODEL"]), trusted=TRUSTED)

    @bentoml.api
    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Return each row's probability."""
        return self.pipeline.predict_proba(rows)[:, 1]
