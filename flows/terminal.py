"""What the command line shows: the state of the stack, and answers to `doctor`.

Colours and redrawing are left out by themselves where the output is no terminal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from flows.stack import Stack

COLOURS = {
    "healthy": "green",
    "starting": "yellow",
    "restarting": "red",
    "silent": "red",
    "stopping": "yellow",
}
ROLES = {
    "prefect": "Prefect: run flows, see their runs, schedules and automations",
    "mlflow": "MLflow: compare models, move aliases",
    "runner": "executes the flow runs",
    "service": "predictions: POST /predict, GET /live",
    "reports": "validation pages, plots of the data, drift reports, /metrics of the data",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One question that `doctor` asked: the answer, and what to do if it is a bad one."""

    name: str
    good: bool
    answer: str
    next_step: str = ""


def draw_stack(stack: Stack, health: Mapping[str, bool] | None = None) -> Table:
    """Return a table of the stack's processes; `health` adds what each answered just now."""
    table = Table(title=f"Perennial: {stack.phase}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "state", "url", "pid", "restarts", "what for"):
        table.add_column(column, no_wrap=column != "what for")
    for one in stack.services:
        state = one.state
        if health is not None and state == "healthy" and not health[one.name]:
            state = "silent"
        colour = COLOURS.get(state, "dim")
        pid, restarts = str(one.pid or ""), str(one.restarts or "")
        table.add_row(one.name, f"[{colour}]{state}[/]", one.url, pid, restarts, ROLES.get(one.name, ""))
    return table


class StackView:
    """Shows the stack while it runs: redrawn in a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said: dict[str, str] = {}
        self._shown: Stack | None = None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, stack: Stack) -> None:
        """Bring what is shown up to date."""
        if stack == self._shown:
            return
        self._shown = stack
        if self._live:
            table = draw_stack(stack)
            table.caption = f"logs in {stack.home / 'logs'}; Ctrl-C stops everything"
            table.caption_justify = "left"
            self._live.update(table, refresh=True)
            return
        for one in stack.services:
            if self._said.get(one.name) != one.state:
                self._said[one.name] = one.state
                self._console.print(f"{one.name} {one.state} {one.url}", soft_wrap=True, highlight=False)


def draw_live(live: Mapping[str, Any] | None) -> str:
    """Return in one line what the service says that it serves."""
    if live is None:
        return "the service does not answer"
    return ", ".join(f"{key}: {value}" for key, value in live.items() if not isinstance(value, (dict, list)))


def draw_checks(checks: Iterable[Check]) -> Table:
    """Return a table of answers, with the next step under each bad one."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark = "[green]good[/]" if check.good else "[red]bad[/]"
        table.add_row(mark, check.name, check.answer if check.good else f"{check.answer}. {check.next_step}")
    return table
