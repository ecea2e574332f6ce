"""`perennial backtest`: what would have become of a past period under each retrain policy."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from feature_repo.contract import Period
    from flows.backtest.run import Backtest
    from flows.project import Project

console = Console()


def backtest(
    ctx: typer.Context,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day. [default: two months after the data's start]"),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day after the last. [default: all landed]")
    ] = None,
    policies: Annotated[str, typer.Option(help="Names with commas between. [default: all]")] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Models fitted at once; 0: as many as processors.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the picture and the JSON. [default: reports/backtest]")
    ] = None,
) -> None:
    """Replay a past period under retrain policies: quality over time, retrains, rejections, cost, regret."""
    from flows.backtest.run import run_backtest
    from flows.policy.retraining import POLICIES
    from flows.project import open_project

    project = open_project(ctx.obj)
    names = [name.strip() for name in policies.split(",") if name.strip()] or list(POLICIES)
    period = _choose_period(project, since, until)
    found = run_backtest(project, period, names, jobs or os.cpu_count() or 1)
    folder = out or project.settings.home / "reports" / "backtest"
    told = _save(found, folder)
    if as_json:
        print(json.dumps(told, indent=1))
        return
    _show(found)
    console.print(f"picture and JSON: {folder}", soft_wrap=True, highlight=False)


def _choose_period(project: "Project", since: datetime | None, until: datetime | None) -> "Period":
    from feature_repo.contract import Period
    from flows.backtest.run import default_period

    usual = default_period(project)
    first = project.day(since.date()).since if since else usual.since
    end = project.day(until.date()).since if until else max(usual.until, first)
    if first > end:
        raise typer.BadParameter(f"{until} is not after {first:%Y-%m-%d}", param_hint="--until")
    return Period(first, end)


def _save(found: "Backtest", folder: Path) -> dict[str, Any]:
    from feature_repo.lake import write_atomically
    from flows.backtest.picture import draw_backtest
    from flows.backtest.report import to_json

    told = to_json(found)
    folder.mkdir(parents=True, exist_ok=True)
    draw_backtest(found, folder / "backtest.png")
    write_atomically(folder / "backtest.json", json.dumps(told, indent=1))
    return told


def _show(found: "Backtest") -> None:
    from flows.backtest.report import HEAD, list_lines, list_remarks

    drawn = Table(title=f"Retrain policies, {found.period}")
    for number, name in enumerate(HEAD):
        drawn.add_column(name, justify="left" if number == 0 else "right")
    for line in list_lines(found):
        drawn.add_row(*line)
    console.print(drawn)
    for remark in list_remarks(found):
        console.print(remark, soft_wrap=True, highlight=False, markup=False)
