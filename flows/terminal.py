"""What the command line shows: the state of the stack, and answers to `doctor`.

Colours and redrawing are left out by themselves where the output is no terminal.
"""

import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from feature_repo.errors import StackError
from flows.local.stack import Stack

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
    "balancer": "clients come in here: POST /predict, GET /live",
    "evidently": "Evidently: drift reports of each window, side by side (starts last, in the background)",
    "reports": "validation pages, plots of the data, drift reports, /metrics of data and model, /alerts",
    "prometheus": "metrics, their rules and alerts",
    "alertmanager": "groups alerts into messages; silence them here",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One question that `doctor` asked: the answer, and what to do if it is a bad one."""

    name: str
    good: bool
    answer: str
    next_step: str = ""


def draw_stack(stack: Stack, health: Mapping[str, bool] | None = None, *, roles: bool = True) -> Table:
    """Return a table of the stack's processes; `health` adds what each answered just now.

    roles  say what each is for, too
    """
    table = Table(title=f"Perennial: {stack.phase}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "state", "url", "pid", "restarts", *(["what for"] if roles else [])):
        table.add_column(column, no_wrap=column != "what for")
    for one in stack.services:
        state = one.state
        if health is not None and state == "healthy" and not health[one.name]:
            state = "silent"
        colour = COLOURS.get(state, "dim")
        pid, restarts = str(one.pid or ""), str(one.restarts or "")
        role = [ROLES.get(one.name, "")] if roles else []
        table.add_row(one.name, f"[{colour}]{state}[/]", one.url, pid, restarts, *role)
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


def keep_running(
    console: Console,
    open_stack: Callable[[Callable[[Stack], None]], AbstractContextManager[Stack]],
    command: str,
    read: Callable[[Stack], Stack] = Stack.read,
) -> None:
    """Start a stack and show it until it is stopped: by Ctrl-C, a signal, or `command` elsewhere.

    read  gives the stack as it is now
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        with StackView(console) as view, open_stack(view.show) as started:
            stack = started
            if not console.is_terminal:
                console.print(f"running; Ctrl-C or `{command} down` stops everything", highlight=False)
            while stack.running:
                time.sleep(0.5)
                stack = read(stack)
                view.show(stack)
    except KeyboardInterrupt:
        console.print("stopped, nothing left running")
        return
    _explain_end(console, stack, command)


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _explain_end(console: Console, stack: Stack, command: str) -> None:
    if stack.phase == "stopped":
        console.print("stopped from elsewhere, nothing left running")
        return
    raise StackError(
        "the stack's supervisor",
        got=f"a stack that {'died' if stack.phase == 'dead' else 'failed'}",
        expected="one that runs until it is stopped",
        next_step=f"Nothing was left running; read {stack.home / 'logs'} and run `{command} up` again.",
    )


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
