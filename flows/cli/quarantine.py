"""`perennial quarantine`: rows that are out, why, and the way back in."""

import getpass
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Rows that broke a rule: list, show, let in after a fix.")
console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list")
def list_rows(
    ctx: typer.Context,
    table: Annotated[str, typer.Option(help="Only rows of this raw table.")] = "",
    readmitted: Annotated[bool, typer.Option("--readmitted", help="Rows let in, with who and why.")] = False,
    as_json: Json = False,
) -> None:
    """List the rows that are out, or those that were let in."""
    from flows.project import open_project
    from flows.quarantine import read_decisions, read_quarantine

    lake = open_project(ctx.obj).lake
    rows = read_decisions(lake) if readmitted else read_quarantine(lake)
    rows = rows.filter(table=table) if table else rows
    shown = ("id", "table", "changes", "waived", "who", "why", "decided_at")
    names = shown if readmitted else ("id", "table", "known_at", "rules")
    told = [{name: str(row[name]) for name in names} for row in rows.to_dicts()]
    if as_json:
        print(json.dumps(told, indent=1))
        return
    if not told:
        console.print("no row was let in yet" if readmitted else "no row is in quarantine")
        return
    drawn = Table()
    for name in names:
        drawn.add_column(name, overflow="fold")
    for row in told:
        drawn.add_row(*(escape(value) for value in row.values()))
    console.print(drawn)


@app.command()
def show(ctx: typer.Context, row_id: Annotated[str, typer.Argument(help="The row's id.")]) -> None:
    """Print one row with the rules that it broke, its batch, and the decision on it, as JSON."""
    import polars as pl

    from feature_repo.errors import RowRefused
    from flows.project import open_project
    from flows.quarantine import read_decisions, read_quarantine

    lake = open_project(ctx.obj).lake
    held = read_quarantine(lake).filter(pl.col("id") == row_id).to_dicts()
    decided = read_decisions(lake).filter(pl.col("id") == row_id).to_dicts()
    if not held and not decided:
        raise RowRefused(
            f"quarantined row {row_id}",
            got="no such row",
            expected="the id of a row that is or was out",
            next_step="Run `perennial quarantine list`.",
        )
    told = {**(held[0] if held else {}), **({"decision": decided[0]} if decided else {})}
    told["row"] = json.loads((held or decided)[0]["row"])
    print(json.dumps(told, indent=1, default=str))


@app.command()
def readmit(
    ctx: typer.Context,
    row_ids: Annotated[list[str], typer.Argument(help="Ids of the rows.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept for good.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Mend a column first, e.g. --set wind_speed=10.4")
    ] = None,
    waive: Annotated[bool, typer.Option("--waive", help="Let it in though it breaks its rules.")] = False,
    who: Annotated[str, typer.Option(help="Who decides. [default: the user of this terminal]")] = "",
) -> None:
    """Let rows in that now keep every rule; features and labels follow. All of them or none."""
    from flows.project import open_project
    from flows.readmission import parse_changes
    from flows.readmission import readmit as let_in

    followed = let_in(
        open_project(ctx.obj),
        row_ids,
        who=who or getpass.getuser(),
        why=reason,
        changes=parse_changes(changes or []),
        waive=waive,
    )
    features = ", ".join(f"{name} {rows} rows" for name, rows in (followed.features or {}).items())
    console.print(f"let in: {', '.join(dict.fromkeys(row_ids))}", markup=False)
    console.print(f"features computed anew: {features or 'none'}; labels: {followed.labels}")
