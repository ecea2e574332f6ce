"""Replicas restarted one after the other: drained, stopped, started, and back in traffic before the next."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.local.balancer import Balancer
from flows.local.replicas import (
    BACK_LIMIT,
    await_admission,
    describe_absence,
    open_balancer,
    require_replicas,
    wait_until,
)
from flows.local.stack import Stack
from flows.local.supervisor import ask_restart

DRAIN_LIMIT = 30.0  # seconds; the balancer gives a request 5 on each of four replicas at most

Progress = Callable[[str, str], None]


def restart_replicas(settings: Settings, progress: Progress = lambda name, doing: None) -> int:
    """Restart every replica, one after the other, without a request lost; return how many.

    Safe to repeat: one that an earlier call left drained is admitted first. Raises StackError if a replica
    does not come back (the others are then left as they are) or if no other could take over.
    """
    stack, balancer = require_replicas(settings), open_balancer(settings)
    names = tuple(balancer.read_servers())
    with _alone(balancer.folder):
        for name in names:
            balancer.admit(name)
        for name in names:
            others = tuple(other for other in names if other != name)
            if not others:
                raise describe_absence("a second replica", "none")
            await_admission(balancer, others)
            _restart(stack, balancer, name, progress)
    return len(names)


def _restart(stack: Stack, balancer: Balancer, name: str, progress: Progress) -> None:
    progress(name, "draining")
    balancer.drain(name)
    try:
        # Whoever is still there after the limit reads so slowly that the process's own grace must do.
        wait_until(lambda: balancer.read_servers()[name].sessions == 0, DRAIN_LIMIT)
        progress(name, "restarting")
        before = stack.read().service(name)
        ask_restart(stack.home, name)

        def is_back() -> bool:
            now = stack.read().service(name)
            return now.state == "healthy" and now.pid not in (None, before.pid)

        if not wait_until(is_back, BACK_LIMIT):
            raise describe_absence(name, stack.read().service(name).state)
    finally:
        balancer.admit(name)  # from here on its checks decide
    await_admission(balancer, (name,))
    progress(name, "back")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the replicas for one restart; the lock goes with the process that holds it."""
    with (folder / "restart.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackError(
                "rolling restart",
                got="another one that is under way",
                expected="one at a time",
                next_step="Wait for it.",
            ) from None
        yield
