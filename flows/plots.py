"""Pictures of a model, for its MLflow run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_calibration(rows: pl.DataFrame, target: str) -> "Figure":
    """Draw observed rate against prediction, in tenths of the rows."""
    from matplotlib.figure import Figure

    ranked = (
        rows.select("score", outcome=pl.col(target).cast(pl.Float64)).sort("score").with_row_index("_row")
    )
    tenth = pl.col("_row") * 10 // max(len(rows), 1)
    bins = ranked.group_by(tenth.alias("tenth")).agg(pl.col("score", "outcome").mean()).sort("tenth")
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot(bins["score"], bins["outcome"], marker="o")
    axes.set(xlabel="predicted", ylabel="observed", title="Calibration on held-out rows")
    return figure


def plot_importance(importance: Mapping[str, float], most: int = 20) -> "Figure":
    """Draw the most important features."""
    from matplotlib.figure import Figure

    top = sorted(importance.items(), key=lambda item: item[1])[-most:]
    figure = Figure(figsize=(6, 0.3 * len(top) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in top], [value for _, value in top])
    axes.set(xlabel="AUC lost when shuffled", title="Permutation importance")
    return figure
