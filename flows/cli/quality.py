"""`perennial quality`: what the batches measured, and which were odd."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()


def quality(
    ctx: typer.Context,
    table: Annotated[str, typer.Option(help="Only this raw table.")] = "",
    last: Annotated[int, typer.Option(min=1, help="How many odd batches to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show how far each raw table has landed, what its newest batch measured, and the latest odd batches."""
    from flows.data_quality import describe_alerts, list_alerts, read_newest
    from flows.manifests import read_manifests
    from flows.project import open_project

    project = open_project(ctx.obj)
    names = [raw.name for raw in project.problem.raw]
    if table and table not in names:
        raise typer.BadParameter(f"{table!r} is none of {', '.join(names)}", param_hint="--table")
    known = read_manifests(project.lake)
    known = known.filter(table=table) if table else known
    alerts = describe_alerts(list_alerts(known)[:last])
    newest = [read_newest(known, t) for t in project.problem.raw if not table or t.name == table]
    if as_json:
        print(json.dumps({"newest": newest, "odd": alerts}, indent=1))
        return
    drawn = Table(title="Newest batch of each table")
    for name in ("table", "landed until (UTC)", "rows", "quarantined", "duplicates", "emptiest columns"):
        drawn.add_column(name, overflow="fold")
    for row in newest:
        drawn.add_row(*(escape(str(row[name])) for name in row if name != "measures"))
    console.print(drawn)
    for alert in alerts:
        console.print(
            f"{alert['until']}  {alert['table']}  {alert['status']}: {alert['what']}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not alerts:
        console.print("no batch was odd")
