"""The `perennial` command.

Nothing heavy is imported here: each command imports what it needs when it runs.
"""

import importlib
import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from feature_repo.settings import Settings, load_settings
from flows.cli.backtest import backtest
from flows.cli.dead_letters import app as dead_letters
from flows.cli.doctor import doctor
from flows.cli.drill import drill
from flows.cli.errors import OneLineErrors
from flows.cli.features import features
from flows.cli.help import teach
from flows.cli.monitoring import app as monitoring
from flows.cli.outcomes import outcomes
from flows.cli.quality import quality
from flows.cli.quarantine import app as quarantine
from flows.cli.release import add_commands as add_releases
from flows.cli.replay import compact, replay_app
from flows.cli.replicas import app as replicas
from flows.cli.status import status
from flows.cli.trace import trace

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Keeps a machine-learning model alive in production, on this machine.",
    epilog="First time: `perennial demo` shows the whole loop on real flights. "
    "Then: `perennial up`, and open the addresses that it prints.\n\n"
    "`perennial COMMAND --help` gives examples; `perennial --install-completion` makes the shell complete "
    "commands and options.",
)
console = Console()
# What these start outlives the terminal's interest: its logs are to say all.
KEEP_PROCESSES = ("up", "demo", "drill", "replicas", "monitoring")

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept with the model.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"perennial {version('perennial')}")
        except PackageNotFoundError:
            print("perennial, not installed")
        raise typer.Exit


@app.callback()
def read_options(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder that everything is written under. [default: var]")
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read what holds for every command."""
    ctx.obj = load_settings(**({"home": home} if home else {}))
    if not traceback and ctx.invoked_subcommand not in KEEP_PROCESSES:
        from flows.quiet import silence

        silence()


@app.command()
def up(ctx: typer.Context) -> None:
    """Start Prefect, MLflow, the runner, the prediction service and its alerts; keep them until Ctrl-C.

    Alerts need Prometheus and Alertmanager on this machine; without them the rest runs all the same, and
    PERENNIAL_MONITORING=off leaves them out. Ports and the rest are settings: PERENNIAL_PREFECT_PORT,
    PERENNIAL_SERVICE_PORT, ...
    """
    from flows.local.watched_stack import attach_monitoring, running_watched
    from flows.terminal import keep_running

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    keep_running(
        console,
        lambda show: running_watched(ctx.obj, on_change=show, say=say),
        "perennial",
        lambda stack: attach_monitoring(ctx.obj, stack.read()),
    )


@app.command()
def down(ctx: typer.Context) -> None:
    """Stop the stack that another terminal started, and the alerts that it started."""
    from flows.local.watched_stack import stop_watched

    stopped = stop_watched(ctx.obj)
    console.print("stopped, nothing left running" if stopped else f"nothing runs on {ctx.obj.home}")


app.command()(status)


@app.command()
def demo(ctx: typer.Context) -> None:
    """Show the whole loop on real flights, from nothing: train, serve, decay, retrain, roll back."""
    from flows.demo import run

    raise typer.Exit(0 if run(ctx.obj) else 1)


@app.command()
def ingest(
    ctx: typer.Context,
    hours: Annotated[int, typer.Option(min=1, help="How many hours past the last batch.")] = 1,
) -> None:
    """Take in what is new since the last batch. Repeating it changes nothing."""
    _run_flow(ctx.obj, "flows.ingest:hourly_ingest", hours=hours)


@app.command()
def backfill(
    ctx: typer.Context,
    since: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="First day.")],
    until: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Day after the last one.")],
) -> None:
    """Take in a stretch of past days and compute its features, e.g. `backfill 2013-01-01 2013-03-01`."""
    first, end = _to_days(since, until)
    stopped = _run_flow(ctx.obj, "flows.loop:backfill", quiet=True, since=first, until=end)
    for batch in stopped:
        console.print(f"stopped: {batch['batch_id']}: {batch['reasons']}", markup=False, soft_wrap=True)
    console.print(
        f"{first} to {end} taken in, {len(stopped)} batches stopped; `perennial quality` shows more"
    )


def _to_days(since: datetime, until: datetime) -> tuple[date, date]:
    first, end = since.date(), until.date()
    if first >= end:
        raise typer.BadParameter(f"{end} is not after {first}", param_hint="UNTIL")
    return first, end


@app.command("backfill-features")
def backfill_features(
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(help="The feature table, as `perennial features` names it.")],
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day. [default: the first ever]")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day after the last. [default: all landed]")
    ] = None,
) -> None:
    """Compute one feature table, a new one say, over the past; the others are not touched."""
    _run_flow(
        ctx.obj,
        "flows.feature_backfill:backfill_features",
        table=table,
        since=since.date() if since else None,
        until=until.date() if until else None,
    )


@app.command()
def train(
    ctx: typer.Context,
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Learn from labels known by then, in UTC."
        ),
    ] = None,
    reason: Reason = "by hand",
) -> None:
    """Train a candidate on what has landed; the gate decides whether it becomes the champion."""
    moment = until.replace(tzinfo=UTC) if until else None
    _run_flow(ctx.obj, "flows.retrain:retrain", until=moment, reason=reason)


@app.command()
def restate(
    ctx: typer.Context,
    since: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="First day.")],
    until: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Day after the last one.")],
) -> None:
    """Ask the source again for days that have landed; what it corrected lands, and all that follows of it."""
    first, end = _to_days(since, until)
    from flows.cli.corrections import show_restated

    show_restated(
        console, _run_flow(ctx.obj, "flows.corrections:restate", quiet=True, since=first, until=end)
    )


app.command()(doctor)


@app.command()
def example(ctx: typer.Context) -> None:
    """Print the request of a real flight as JSON: `perennial example | curl --json @- URL/predict`."""
    from flows.example import example_request

    print(json.dumps(example_request(ctx.obj), indent=1))


add_releases(app)
app.command()(backtest)
app.command()(drill)
app.command()(features)
app.command()(quality)
app.command()(outcomes)
app.add_typer(quarantine, name="quarantine")
app.add_typer(dead_letters, name="dead-letters")
app.command()(trace)
app.add_typer(replay_app, name="replay")
app.command()(compact)
app.add_typer(replicas, name="replicas")
app.add_typer(monitoring, name="monitoring")
teach(app)


def _run_flow(settings: Settings, entry: str, *, quiet: bool = False, **parameters: object) -> Any:
    """Run one flow here, against the running stack; its run shows in the Prefect UI."""
    from flows.local.stack import require_stack
    from flows.local.stack_services import build_environment
    from flows.progress import showing

    require_stack(settings)
    os.environ.update(build_environment(settings))
    module, _, name = entry.partition(":")
    with showing(name.replace("_", "-"), settings.home):
        result = getattr(importlib.import_module(module), name)(**parameters)
    if result is not None and not quiet:
        console.print(result)
    return result


def main() -> None:
    """Entry point of the `perennial` command."""
    app()
