"""`perennial replicas`: the service as several processes behind a balancer."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="The service several times over, behind a balancer (HAProxy).")
console = Console()
COLUMNS = ("name", "traffic", "process", "restarts", "under way", "answered", "retried elsewhere")


@app.command()
def up(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(min=1, max=64, help="How many replicas.")] = 3,
) -> None:
    """Start replicas and the balancer before them; keep them running until Ctrl-C.

    Clients use PERENNIAL_BALANCER_PORT; the replicas take the ports after it, and each of them
    PERENNIAL_SERVICE_WORKERS processes. The registry is that of the stack, whether it runs or not.
    """
    from flows.local.replicas import plan_layout, running_replicas
    from flows.terminal import keep_running

    layout = plan_layout(ctx.obj, count)
    keep_running(console, lambda show: running_replicas(ctx.obj, layout, show), "perennial replicas")


@app.command()
def restart(ctx: typer.Context) -> None:
    """Restart all replicas, one after the other: drained first, back in traffic before the next."""
    from flows.local.rolling_restart import restart_replicas

    done = restart_replicas(ctx.obj, lambda name, doing: console.print(f"{name}: {doing}", highlight=False))
    console.print(f"{done} replicas restarted")


@app.command()
def status(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show each replica, what the balancer makes of it, and counts. Exits 1 unless all take requests."""
    from flows.local.replicas import describe_replicas, require_replicas

    stack = require_replicas(ctx.obj)
    told = describe_replicas(ctx.obj)
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        console.print(_draw(told))
        console.print(
            f"clients: {stack.service('balancer').url}; logs in {stack.home / 'logs'}", soft_wrap=True
        )
    if not all(one["traffic"] == "UP" for one in told):
        raise typer.Exit(1)


def _draw(told: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column("" if name == "name" else name, no_wrap=True)
    for one in told:
        table.add_row(*("" if one[name] is None else str(one[name]) for name in COLUMNS))
    return table


@app.command()
def down(ctx: typer.Context) -> None:
    """Stop the balancer, then the replicas, that another terminal started."""
    from flows.local.replicas import find_folder
    from flows.local.stack import stop_stack

    stopped = stop_stack(find_folder(ctx.obj))
    console.print("stopped, nothing left running" if stopped else "no replicas run")
