"""Several processes of the service behind a balancer, kept running, and restarted one after the other.

The supervisor of the local stack carries them, on a folder of their own (`replicas` in the home), so that
they run beside the stack or without it. All of them share the home: journal, models and online store.
"""

import contextlib
import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feature_repo.errors import StackError
from feature_repo.settings import PREFIX, Settings
from flows.balancer import Balancer
from flows.children import Service
from flows.stack import Stack, build_services, read_stack, running_stack
from flows.supervisor import ask_restart

DRAIN_LIMIT = 30.0  # seconds; the balancer gives a request 5 on each of four replicas at most
RESTART_LIMIT = 240.0  # seconds that one replica may take to come back
PAUSE = 0.1  # seconds between two looks

Progress = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the balancer, its state page and the replicas listen."""

    balancer: int
    stats: int
    replicas: tuple[int, ...]

    @property
    def named(self) -> dict[str, int]:
        """The replicas' ports by name."""
        return {f"replica-{n}": port for n, port in enumerate(self.replicas, 1)}


def plan_layout(settings: Settings, count: int) -> Layout:
    """Return the ports for that many replicas: those that follow the balancer's."""
    first = settings.balancer_port + 1
    return Layout(settings.balancer_port, settings.balancer_stats_port, tuple(range(first, first + count)))


def find_folder(settings: Settings) -> Path:
    """Return where the replicas' supervisor and balancer keep what they write."""
    return settings.home / "replicas"


def open_balancer(settings: Settings) -> Balancer:
    """Return the balancer of a home, whether it runs or not."""
    return Balancer(find_folder(settings))


@contextlib.contextmanager
def running_replicas(
    settings: Settings, layout: Layout, on_change: Callable[[Stack], None] = lambda stack: None
) -> Iterator[Stack]:
    """Start replicas and balancer, yield once all are healthy, and stop them, balancer first, at the end.

    Raises StackError if HAProxy is not installed or something cannot start.
    """
    balancer = open_balancer(settings)
    services = [*build_replicas(settings, layout), _build_balancer(settings, layout)]
    addresses = {name: f"{settings.host}:{port}" for name, port in layout.named.items()}
    balancer.write_config(addresses, services[-1].environment)
    own = settings.model_copy(update={"home": balancer.folder})
    with running_stack(own, services, on_change) as stack:
        _await_admission(balancer, tuple(layout.named))
        yield stack


def build_replicas(settings: Settings, layout: Layout) -> list[Service]:
    """Return the processes of the service: one port each, one home."""
    made = []
    for name, port in layout.named.items():
        alone = settings.model_copy(update={"service_port": port})
        service = next(s for s in build_services(alone) if s.name == "service")
        # BentoML keeps the workers' counters in its home and empties them when it starts: each has its own.
        own = {"BENTOML_HOME": str(find_folder(settings) / "bentoml" / name)}
        made.append(
            replace(
                service,
                name=name,
                setting=PREFIX + "BALANCER_PORT",
                environment={**service.environment, **own},
            )
        )
    return made


def _build_balancer(settings: Settings, layout: Layout) -> Service:
    balancer = open_balancer(settings)
    return Service(
        name="balancer",
        command=balancer.build_command(),
        host=settings.host,
        port=layout.balancer,
        setting=PREFIX + "BALANCER_PORT",
        health=f"http://127.0.0.1:{layout.stats}/livez",
        url=f"http://{settings.host}:{layout.balancer}",
        environment=balancer.build_environment(settings.host, layout.balancer, layout.stats),
        after=tuple(layout.named),
        grace=25.0,  # the configuration gives answers under way 20
        stop_signal=signal.SIGUSR1,  # SIGTERM would cut them off
    )


def require_replicas(settings: Settings) -> Stack:
    """Return what runs. Raises StackError if nothing does."""
    stack = read_stack(find_folder(settings))
    if stack is None or not stack.running:
        raise StackError(
            f"replicas of home {settings.home}",
            got="none running",
            expected="replicas behind a balancer",
            next_step="Start them with `perennial replicas up`.",
        )
    return stack


def describe_replicas(settings: Settings) -> list[dict[str, Any]]:
    """Return what is known of each replica: its process, and what the balancer makes of it."""
    stack = require_replicas(settings)
    try:
        servers = open_balancer(settings).read_servers()
    except StackError:  # it starts, or starts again
        servers = {}
    told = []
    for one in stack.services:
        if one.name == "balancer":
            continue
        seen = servers.get(one.name)
        told.append(
            {
                "name": one.name,
                "traffic": seen.status if seen else "no balancer",
                "process": one.state,
                "url": one.url,
                "pid": one.pid,
                "restarts": one.restarts,
                "under way": seen.sessions if seen else None,
                "answered": seen.answered if seen else None,
                "retried elsewhere": seen.retried if seen else None,
            }
        )
    return told


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
                raise _not_there("a second replica", "none")
            _await_admission(balancer, others)
            _restart(stack, balancer, name, progress)
    return len(names)


def _restart(stack: Stack, balancer: Balancer, name: str, progress: Progress) -> None:
    progress(name, "draining")
    balancer.drain(name)
    try:
        # Whoever is still there after the limit reads so slowly that the process's own grace must do.
        _wait(lambda: balancer.read_servers()[name].sessions == 0, DRAIN_LIMIT)
        progress(name, "restarting")
        before = stack.read().service(name)
        ask_restart(stack.home, name)

        def is_back() -> bool:
            now = stack.read().service(name)
            return now.state == "healthy" and now.pid not in (None, before.pid)

        if not _wait(is_back, RESTART_LIMIT):
            raise _not_there(name, stack.read().service(name).state)
    finally:
        balancer.admit(name)  # from here on its checks decide
    _await_admission(balancer, (name,))
    progress(name, "back")


def _await_admission(balancer: Balancer, names: tuple[str, ...]) -> None:
    """Wait until the balancer sends requests to all of these. Raises StackError."""

    def lacking() -> list[str]:
        servers = balancer.read_servers()
        return [name for name in names if name not in servers or not servers[name].up]

    if not _wait(lambda: not lacking(), RESTART_LIMIT):
        raise _not_there(", ".join(lacking()), "not taking requests")


def _not_there(name: str, got: str) -> StackError:
    return StackError(
        f"{name} behind the balancer",
        got=got,
        expected="a replica that takes requests while another restarts",
        next_step="Look at `perennial replicas status` and the logs that it names.",
    )


def _wait(holds: Callable[[], bool], limit: float) -> bool:
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


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
