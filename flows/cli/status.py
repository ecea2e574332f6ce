"""`perennial status`: what runs and how it is, once or as a view that is kept up to date."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.text import Text

if TYPE_CHECKING:
    from flows.status import Status

console = Console()
WIDE = 120  # columns that also hold what each process is for


def status(
    ctx: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Print it once; so it is where the output is no terminal.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds from one look to the next.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show what runs and serves, since when and why, how fresh it is, what was judged, fires and waits.

    In a terminal it is kept up to date until Ctrl-C. Exits 1 unless all that somebody waits for answers.
    """
    from flows.status import describe, read_status

    told = read_status(ctx.obj)
    if as_json:
        print(json.dumps(describe(told), indent=1))
    elif not told.running:
        console.print(f"nothing runs on {told.home}; start it with `perennial up`", soft_wrap=True)
    elif once or not console.is_terminal:
        console.print(Group(*draw(told)))
    else:
        told = _watch(ctx, told, every)
    if not told.good:
        raise typer.Exit(1)


def _watch(ctx: typer.Context, told: "Status", every: float) -> "Status":
    from rich.live import Live

    from flows.status import read_status

    with Live(Group(*draw(told)), console=console, auto_refresh=False, screen=True) as view:
        try:
            while told.running:
                view.update(Group(*draw(told), Text("Ctrl-C ends this view, and nothing else")), refresh=True)
                time.sleep(every)
                told = read_status(ctx.obj)
        except KeyboardInterrupt:
            pass
    return told


def draw(told: "Status") -> Iterator[RenderableType]:
    """Yield the parts of the view."""
    from flows.terminal import draw_stack

    assert told.stack is not None
    yield draw_stack(told.stack, told.health, roles=console.width >= WIDE)
    for heading, lines in _list_parts(told):
        yield Text.from_markup(f"\n[bold]{heading}[/]")
        for line in lines:
            yield Text.from_markup(f"  {line}", overflow="fold")


def _list_parts(told: "Status") -> Iterator[tuple[str, list[str]]]:
    yield "serves", _draw_serving(told)
    ages = [f"{escape(a.table)}: until {a.until} UTC" + _behind(a.behind_hours) for a in told.ages]
    yield "freshness", ages or ["nothing has landed; `perennial backfill 2013-01-01 2013-03-01` takes it in"]
    yield (
        "verdicts",
        [
            f"{v.window} until {v.until}, version {v.version}: quality {v.quality}, "
            + (f"[red]breached: {', '.join(v.breaches)}[/]" if v.breaches else "nothing breached")
            for v in told.verdicts
        ]
        or ["none yet: the daily loop judges what was served"],
    )
    if told.alerts is None:
        yield "alerts", ["no Prometheus answers; `perennial monitoring up` starts it"]
    else:
        firing = [f"[red]{a.name}[/] ({a.severity}) since {a.since}: {escape(a.what)}" for a in told.alerts]
        yield "alerts", firing or ["none fires"]
    yield "queues", [f"{count:,} {words}" for words, count in told.queues.items()]


def _draw_serving(told: "Status") -> list[str]:
    one = told.serving
    if one is None:
        return ["[red]the service does not answer[/]"]
    if one.champion is None:
        return [
            f"[yellow]no model[/] since {one.since[:19]}: {escape(one.why)}; the rule or the prior answers"
        ]
    beside = ", ".join(
        f"{name} {version}"
        for name, version in (("previous", one.previous), ("challenger", one.challenger))
        if version
    )
    first = f"[green]version {one.champion}[/] since {one.since[:19]} UTC" + (f"; {beside}" if beside else "")
    return [first, f"why: {escape(one.why)}"]


def _behind(hours: float) -> str:
    return f", {hours:g} h behind the newest" if hours else ""
