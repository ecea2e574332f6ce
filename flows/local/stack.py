"""The local stack: started, read and stopped. What it is made of is in flows/local/stack_services.py.

`running_stack` holds it for the length of a `with` block; `stop_stack` and `read_stack` work from
any other process. The supervisor (flows/local/supervisor.py) is a process of its own, so that nothing is
left running however its owner ends.
"""

import contextlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.local import processes
from flows.local.children import Service, answers, encode_plan, fetch
from flows.local.stack_services import PROJECT, build_services
from flows.local.supervisor import end_predecessor

STOP_LIMIT = 60.0  # seconds that the supervisor gets to stop all services


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What is known of one process of the stack."""

    name: str
    state: str
    pid: int | None
    url: str
    health: str
    restarts: int
    log: Path
    background: bool = False  # the stack counts as running without it


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as its home describes it; `phase` is starting, running, stopping, stopped, failed or dead."""

    home: Path
    id: str
    phase: str
    pid: int | None
    created: float | None
    services: tuple[ServiceStatus, ...]

    @property
    def running(self) -> bool:
        """Whether a supervisor is at work on that home."""
        return self.phase in ("starting", "running", "stopping")

    def service(self, name: str) -> ServiceStatus:
        """Return the status of the service of that name."""
        return next(s for s in self.services if s.name == name)

    def read(self) -> "Stack":
        """Return the same stack as it is now."""
        return read_stack(self.home) or self


@contextlib.contextmanager
def running_stack(
    settings: Settings,
    services: Sequence[Service] | None = None,
    on_change: Callable[[Stack], None] = lambda stack: None,
) -> Iterator[Stack]:
    """Start the stack, yield it once all of it is healthy, and stop all of it at the end.

    `on_change` is called with each new state while it starts. Raises StackError if it cannot start.
    """
    stack_id = uuid.uuid4().hex[:12]
    chosen = list(services if services is not None else build_services(settings))
    for name in {"logs"} | ({"prefect", "mlflow"} & {s.name for s in chosen}):
        (settings.home / name).mkdir(parents=True, exist_ok=True)
    supervisor = _start_supervisor(stack_id, settings.home, chosen)
    try:
        yield _await_start(stack_id, settings.home, supervisor, on_change)
    finally:
        _stop_supervisor(stack_id, supervisor)


def _start_supervisor(stack_id: str, home: Path, services: list[Service]) -> subprocess.Popen[bytes]:
    with (home / "logs" / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            (sys.executable, "-m", "flows.local.supervisor"),
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for its owner, which then closes the lifeline
        )
    assert supervisor.stdin is not None
    supervisor.stdin.write(encode_plan(stack_id, home, services).encode() + b"\n")
    supervisor.stdin.flush()
    return supervisor


def _await_start(
    stack_id: str, home: Path, supervisor: subprocess.Popen[bytes], on_change: Callable[[Stack], None]
) -> Stack:
    before = None
    while True:
        ended = supervisor.poll() is not None
        stack = read_stack(home)
        if stack is not None and stack.id == stack_id and stack != before:
            on_change(stack)
            before = stack
            if stack.phase == "running":
                return stack
        if ended:
            raise _read_failure(supervisor, home)
        time.sleep(0.1)


def _read_failure(supervisor: subprocess.Popen[bytes], home: Path) -> StackError:
    assert supervisor.stdout is not None
    try:
        return StackError(**json.loads(supervisor.stdout.read()))
    except ValueError:
        return StackError(
            "the stack's supervisor",
            got=f"exit code {supervisor.returncode}" if supervisor.returncode else "a request to stop",
            expected="a process that keeps running",
            next_step=f"Read {home / 'logs' / 'supervisor.log'}.",
        )


def _stop_supervisor(stack_id: str, supervisor: subprocess.Popen[bytes]) -> None:
    """Close the lifeline and wait; then end whatever is left, however the supervisor ended."""
    assert supervisor.stdin is not None and supervisor.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            supervisor.stdin.close()
        supervisor.wait(timeout=STOP_LIMIT)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        supervisor.kill()
        supervisor.wait()
    finally:
        supervisor.stdout.close()
        processes.end_processes(processes.find_marked(f"{stack_id}/"), grace=3)


def read_stack(home: Path) -> Stack | None:
    """Return the stack last started on that home, or None if there never was one."""
    try:
        written = json.loads((home / "stack.json").read_text())
    except (OSError, ValueError):
        return None
    alive = processes.find_process(written["pid"], written["created"]) is not None
    phase = written["phase"] if alive or written["phase"] in ("stopped", "failed") else "dead"
    return Stack(
        home=home,
        id=written["id"],
        phase=phase,
        pid=written["pid"] if alive else None,
        created=written["created"],
        services=tuple(_read_service(name, one, alive) for name, one in written["services"].items()),
    )


def _read_service(name: str, written: dict[str, Any], alive: bool) -> ServiceStatus:
    return ServiceStatus(
        name=name,
        state=written["state"] if alive else "stopped",
        pid=written["pid"] if alive else None,
        url=written["url"],
        health=written["health"],
        restarts=written["restarts"],
        log=Path(written["log"]),
        background=written.get("background", False),
    )


def require_stack(settings: Settings) -> Stack:
    """Return the stack that runs on that home. Raises StackError if none does."""
    stack = read_stack(settings.home)
    if stack is None or not stack.running:
        raise StackError(
            f"stack of home {settings.home}",
            got="none running",
            expected="a running stack",
            next_step="Start it with `make up` or `perennial up`.",
        )
    return stack


def stop_stack(home: Path, limit: float = STOP_LIMIT) -> bool:
    """Stop the stack of that home, from any process; return whether there was anything to stop."""
    stack = read_stack(home)
    if stack is None:
        return False
    supervisor = processes.find_process(stack.pid, stack.created)
    if supervisor is not None:
        processes.end_processes([supervisor], grace=limit)
    return end_predecessor(home) > 0 or supervisor is not None


def check_health(stack: Stack) -> dict[str, bool]:
    """Ask every service of the stack now whether it answers."""
    return {s.name: stack.running and answers(s.health, timeout=2.0) for s in stack.services}


def read_live(settings: Settings, timeout: float = 2.0) -> dict[str, Any] | None:
    """Return what the service says of itself at GET /live; None if it does not answer."""
    answer = fetch(f"{settings.service_url}/live", timeout)
    try:
        said = json.loads(answer or b"null")
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
