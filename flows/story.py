"""What happened in a replay, as it was seen, and what it came to: told at its end."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from rich.console import Console

from feature_repo.settings import Settings

if TYPE_CHECKING:
    from flows.project import Project


@dataclass
class Story:
    """What happened, as it was seen."""

    first_version: int = 0
    days: int = 0
    served: Counter[str] = field(default_factory=Counter)
    retrains: list[dict[str, Any]] = field(default_factory=list)
    swaps: list[dict[str, Any]] = field(default_factory=list)
    stopped_batches: list[str] = field(default_factory=list)
    quarantined: int = 0
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    months: list[dict[str, Any]] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)
    seconds: float = 0.0

    def missing(self) -> list[str]:
        """Return what did not truly happen; empty if all of it did."""
        wanted = {
            "a first model was promoted": self.first_version > 0,
            "days were replayed": self.days > 0,
            "the monitor's verdict led to a retrain": bool(self.retrains),
            "the gate passed a retrained model": any(r["passed"] for r in self.retrains),
            "the service swapped to it": any(s["kind"] == "promotion" for s in self.swaps),
            "every worker followed each swap": all(s["seconds"] is not None for s in self.swaps),
            "the alias was moved back and the service followed": any(
                s["kind"] == "roll-back" and s["seconds"] is not None for s in self.swaps
            ),
            "requests were sent and none failed": self.sent > 0 and not self.failed,
            "drift reports were written": bool(self.reports),
            "frozen and kept model were compared": bool(self.months),
        }
        return [what for what, true in wanted.items() if not true]


def compare_frozen(project: "Project", story: Story) -> None:
    """Score every labelled prediction with the first model as well, on the very same feature values."""
    import json

    import polars as pl

    from feature_repo.contract import Period
    from flows.train import measure, predict
    from services.package import load_package

    problem = project.problem
    labels = project.lake.read("labels")
    if not len(labels):
        return
    labels = labels.filter(pl.col("outcome").is_not_null())
    journal = project.journal.read_predictions(Period(problem.start, problem.end))
    joined = journal.join(labels.select("prediction_id", "outcome"), on="prediction_id")
    rows = pl.DataFrame([json.loads(text) for text in joined["features"]], infer_schema_length=None).select(
        problem.feature_names
    )
    frozen = load_package(project.package(story.first_version)).estimator
    when = joined["requested_at"].str.to_datetime(time_zone="UTC").dt.convert_time_zone(problem.time_zone)
    both = joined.select("score", "outcome").with_columns(
        frozen=pl.Series(predict(frozen, rows, problem)), month=when.dt.strftime("%Y-%m")
    )
    for (month,), part in both.sort("month").group_by("month", maintain_order=True):
        was = measure(part["outcome"].to_numpy(), part["frozen"].to_numpy())
        now = measure(part["outcome"].to_numpy(), part["score"].to_numpy())
        story.months.append({"month": month, "rows": len(part), "frozen": was, "kept": now})


def show_story(console: Console, settings: Settings, story: Story) -> None:
    """Print it."""
    from rich.table import Table

    table = Table(title="Frozen model against the one that was kept, on the same labelled predictions")
    for name in ("month", "labelled", "late", "frozen AUC", "kept AUC", "frozen skill", "kept skill"):
        table.add_column(name, justify="right")
    for m in story.months:
        was, now = m["frozen"], m["kept"]
        cells = [f"{was['base_rate']:.0%}", f"{was['auc']:.3f}", f"{now['auc']:.3f}"]
        cells += [f"{was['brier_skill']:+.3f}", f"{now['brier_skill']:+.3f}"]
        table.add_row(m["month"], f"{m['rows']:,}", *cells)
    console.print(table)
    console.print(f"days replayed      {story.days}")
    console.print(f"predictions        {story.sent:,} asked, {len(story.failed)} failed")
    console.print(
        f"batches            {len(story.stopped_batches)} stopped, {story.quarantined} rows quarantined"
    )
    for r in story.retrains:
        result = f"version {r['version']} promoted" if r["passed"] else "gate rejected it"
        why = shorten(r["reason"], 240, placeholder=" ...; all of it is in the run's parameters")
        console.print(f"retrain            {r['day']}: {result}; {why}")
    for s in story.swaps:
        took = f"{s['seconds']:.2f} s" if s["seconds"] is not None else "not followed"
        console.print(
            f"swap               {s['kind']}: version {s['from']} -> {s['to']}, every worker in {took}"
        )
    for path in story.reports:
        console.print(f"drift report       {path}")
    console.print(f"took               {story.seconds:.0f} s")
    for what in story.missing():
        console.print(f"[red]did not happen: {what}[/red]")
    for failure in story.failed[:5]:
        console.print(f"[red]failed request: {failure}[/red]")
    console.print(f"everything is under {settings.home}; `make up` starts the stack on it")
