"""`perennial outcomes`: what became of each outcome told, and how fast labels arrive."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from flows.outcomes_report import OutcomeReport

console = Console()
SHOWN = ("known_at", "via", "entity", "prediction_id", "outcome", "status")


def outcomes(
    ctx: typer.Context,
    fate: Annotated[str, typer.Option(help="Show the newest outcomes of this fate, e.g. orphan.")] = "",
    last: Annotated[int, typer.Option(min=1, help="How many of them.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show how many outcomes were accepted, late, duplicate, in conflict or orphans; how fast they come."""
    from flows.outcomes import FATES
    from flows.outcomes_report import report_outcomes
    from flows.project import open_project

    if fate and fate not in FATES:
        raise typer.BadParameter(f"{fate!r} is none of {', '.join(FATES)}", param_hint="--fate")
    report = report_outcomes(open_project(ctx.obj), fate, last)
    if as_json:
        print(json.dumps(report.to_json(), indent=1, default=str))
        return
    _draw_fates(report)
    _draw_curve(report)
    if fate:
        _draw_sample(report, fate)


def _draw_fates(report: "OutcomeReport") -> None:
    from flows.outcomes import FATES

    drawn = Table(title=f"Outcomes known before {report.until:%Y-%m-%d %H:%M} UTC, by who told them")
    drawn.add_column("fate")
    for via in report.fates:
        drawn.add_column(via, justify="right")
    for fate in FATES:
        drawn.add_row(fate, *(f"{counted[fate]:,}" for counted in report.fates.values()))
    console.print(drawn)
    if report.waiting:
        console.print(f"{report.waiting:,} more are known only later; no run has come so far yet")


def _draw_curve(report: "OutcomeReport") -> None:
    drawn = Table(title="Maturity: things asked about long enough ago, and labels that had come by that age")
    for name in ("age, hours", "asked", "arrived", "share"):
        drawn.add_column(name, justify="right")
    for point in report.curve:
        share = "" if point.share is None else f"{point.share:.1%}"
        hours = point.age.total_seconds() / 3600
        drawn.add_row(f"{hours:.1f}", f"{point.asked:,}", f"{point.arrived:,}", share)
    console.print(drawn)


def _draw_sample(report: "OutcomeReport", fate: str) -> None:
    drawn = Table(title=f"Newest outcomes: {fate}")
    for name in SHOWN:
        drawn.add_column(name, overflow="fold")
    for row in report.sample:
        drawn.add_row(*(escape(str(row[name])) for name in SHOWN))
    console.print(drawn)
