"""Several processes of the service behind a balancer, kept running.

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
from flows.local.balancer import Balancer
from flows.local.children import Service
from flows.local.prometheus import refresh_targets
from flows.local.stack import Stack, read_stack, running_stack
from flows.local.stack_services import build_services

BACK_LIMIT = 240.0  # seconds that one replica may take to come back
PAUSE = 0.1  # seconds between two looks


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
    with _alone(settings):  # until the end, so that nobody writes over the configuration meanwhile
        yield from _run(settings, layout, balancer, on_change)


def _run(
    settings: Settings, layout: Layout, balancer: Balancer, on_change: Callable[[Stack], None]
) -> Iterator[Stack]:
    services = [*build_replicas(settings, layout), _build_balancer(settings, layout)]
    addresses = {name: f"{settings.host}:{port}" for name, port in layout.named.items()}
    balancer.write_config(addresses, services[-1].environment)
    own = settings.model_copy(update={"home": balancer.folder})
    try:
        with running_stack(own, services, on_change) as stack:
            await_admission(balancer, tuple(layout.named))
            refresh_targets(settings)
            yield stack
    finally:
        refresh_targets(settings)


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


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Be the only one who starts replicas on a home. Raises StackError if others run."""
    folder = find_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "replicas.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        stack = read_stack(folder)
        if not free or (stack is not None and stack.running):
            raise StackError(
                f"replicas of home {settings.home}",
                got="others that run",
                expected="one balancer per home",
                next_step="Stop them with `perennial replicas down`.",
            )
        yield


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


def await_admission(balancer: Balancer, names: tuple[str, ...]) -> None:
    """Wait until the balancer sends requests to all of these. Raises StackError."""

    def lacking() -> list[str]:
        servers = balancer.read_servers()
        return [name for name in names if name not in servers or not servers[name].up]

    if not wait_until(lambda: not lacking(), BACK_LIMIT):
        raise describe_absence(", ".join(lacking()), "not taking requests")


def describe_absence(name: str, got: str) -> StackError:
    """Return the error of a replica that does not take requests."""
    return StackError(
        f"{name} behind the balancer",
        got=got,
        expected="a replica that takes requests while another restarts",
        next_step="Look at `perennial replicas status` and the logs that it names.",
    )


def wait_until(holds: Callable[[], bool], limit: float) -> bool:
    """Wait until it holds, or for `limit` seconds; return whether it does."""
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True
