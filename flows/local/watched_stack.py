"""The local stack with its alerts: Prometheus and Alertmanager beside it, unless the settings say `off`.

Both stay a stack of their own, on a home and under a supervisor of their own: `perennial monitoring` can
start and stop them alone, and what keeps them from starting keeps nothing else from running.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psutil

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.local import processes
from flows.local.children import Service
from flows.local.prometheus import build_monitoring, find_folder, running_monitoring, stop_monitoring
from flows.local.stack import Stack, read_stack, running_stack, stop_stack


@contextlib.contextmanager
def running_watched(
    settings: Settings,
    services: Sequence[Service] | None = None,
    on_change: Callable[[Stack], None] = lambda stack: None,
    say: Callable[[str], None] = print,
) -> Iterator[Stack]:
    """Start the stack, then its alerts; yield once both answer, and stop both at the end.

    Where no alerts can be started, `say` is called with one line that names the next step. Raises
    StackError if the stack itself cannot start.
    """
    with (
        running_stack(settings, services, on_change) as stack,
        _running_beside(settings, lambda _: on_change(attach_monitoring(settings, stack)), say),
    ):
        yield attach_monitoring(settings, stack)


@contextlib.contextmanager
def _running_beside(
    settings: Settings, on_change: Callable[[Stack], None], say: Callable[[str], None]
) -> Iterator[None]:
    before = read_stack(find_folder(settings))
    with contextlib.ExitStack() as held:
        if settings.monitoring != "off" and not (before and before.running):
            try:
                # Asked before anything is written: a start that failed counts as monitoring that died,
                # without which nothing is promoted.
                for one in build_monitoring(settings):
                    processes.check_port(one.host, one.port, one.name, one.setting)
                held.enter_context(running_monitoring(settings, on_change))
            except StackError as error:
                say(f"no alerts: {' '.join(str(error).split())} PERENNIAL_MONITORING=off leaves them out.")
        yield


def attach_monitoring(settings: Settings, stack: Stack) -> Stack:
    """Return the stack with the processes of its monitoring among its own, where any was started."""
    beside = read_stack(find_folder(settings))
    if beside is None or beside.phase == "stopped":
        return stack
    services = (replace(one, background=True) for one in beside.services)
    return replace(stack, services=(*stack.services, *services))


def stop_watched(settings: Settings) -> bool:
    """Stop the stack of a home, and its monitoring if the same command started it, from any process.

    Returns whether there was anything to stop.
    """
    stack, beside = read_stack(settings.home), read_stack(find_folder(settings))
    owners = [find_owner(one) for one in (stack, beside)]
    stopped = stop_stack(settings.home)
    if owners[0] is not None and owners[0] == owners[1]:
        stop_monitoring(settings)
    return stopped


def find_owner(stack: Stack | None) -> int | None:
    """Return the process that holds the stack; None if it does not run."""
    supervisor = processes.find_process(stack.pid, stack.created) if stack else None
    with contextlib.suppress(psutil.Error):
        return supervisor.ppid() if supervisor else None
    return None
