"""The backtest as a picture: each policy's AUC by week and by month, and where it retrained."""

from pathlib import Path

from flows.backtest.measures import Worth
from flows.backtest.run import Backtest


def draw_backtest(found: Backtest, file: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    weekly, monthly, marks = figure.subplots(3, 1, height_ratios=(4, 4, 0.35 * len(found.worths) + 0.4))
    for number, worth in enumerate(found.worths):
        style = {"color": f"C{number}", "linewidth": 1.2}
        weekly.plot([w.since for w in worth.weeks], [w.auc for w in worth.weeks], label=worth.policy, **style)
        monthly.plot([m.name for m in worth.months], [m.auc for m in worth.months], marker="o", **style)
    for place, worth in enumerate(reversed(found.worths)):
        _mark(marks, worth, place, f"C{found.worths.index(worth)}")
    weekly.set(ylabel="AUC by week", title=f"{found.problem}: retrain policies over {found.period}")
    weekly.legend(ncols=4, fontsize="small")
    monthly.set(ylabel="AUC by month")
    marks.set(xlim=weekly.get_xlim(), xlabel="retrains: filled passed the gate, crossed were rejected")
    marks.set_yticks(range(len(found.worths)), [worth.policy for worth in reversed(found.worths)])
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}")
    figure.savefig(part, format="png", dpi=110)
    part.replace(file)


def _mark(axes: object, worth: Worth, place: int, color: str) -> None:
    for passed, marker in ((True, "o"), (False, "x")):
        at = [request.at for request in worth.requests if request.passed is passed]
        axes.scatter(at, [place] * len(at), marker=marker, color=color, s=24)  # type: ignore[attr-defined]
