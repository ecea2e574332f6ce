"""`perennial monitoring`: Prometheus and Alertmanager beside the stack."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from flows.local.prometheus import Watch

app = typer.Typer(no_args_is_help=True, help="Alerts: Prometheus and Alertmanager beside the stack.")
console = Console()


@app.command()
def up(ctx: typer.Context) -> None:
    """Start Alertmanager and Prometheus; keep them running until Ctrl-C.

    They watch the stack of the same home, whether it runs or not. Alerts go to PERENNIAL_ALERT_WEBHOOK, or
    else to the page of alerts of the reports.
    """
    from flows.local.prometheus import running_monitoring
    from flows.terminal import keep_running

    keep_running(console, lambda show: running_monitoring(ctx.obj, show), "perennial monitoring")


@app.command()
def status(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what is watched, the rules, who is told, and what fires. Exits 1 unless all is up."""
    from flows.local.prometheus import read_watch, require_monitoring

    stack = require_monitoring(ctx.obj)
    watch = read_watch(ctx.obj)
    if as_json:
        print(json.dumps({**asdict(watch), "ok": watch.ok}, indent=1))
    else:
        console.print(_draw(watch))
        told = f"{watch.rules} alert rules, told to {', '.join(watch.receivers) or 'nobody'}"
        console.print(f"{told}; firing: {', '.join(watch.firing) or 'none'}", soft_wrap=True)
        console.print(f"logs in {stack.home / 'logs'}", soft_wrap=True)
    if not watch.ok:
        raise typer.Exit(1)


@app.command()
def down(ctx: typer.Context) -> None:
    """Stop both, that another terminal started; promotions no longer wait for them."""
    from flows.local.prometheus import is_expected, stop_monitoring

    missed, stopped = is_expected(ctx.obj), stop_monitoring(ctx.obj)
    if stopped:
        console.print("stopped, nothing left running")
    else:
        console.print("no monitoring runs" + ("; promotions no longer wait for it" if missed else ""))


def _draw(watch: "Watch") -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("job", "target", "health", "trouble"):
        table.add_column(name, no_wrap=name != "trouble")
    for one in watch.targets:
        table.add_row(one.job, one.url, one.health, one.trouble)
    return table
