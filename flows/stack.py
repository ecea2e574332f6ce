"""The local stack: Prefect and MLflow servers, the deployments' runner, the service, reports, Evidently UI.

`running_stack` holds it for the length of a `with` block; `stop_stack` and `read_stack` work from
any other process. The supervisor (flows/supervisor.py) is a process of its own, so that nothing is
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
from feature_repo.settings import PREFIX, Settings, to_environment
from flows import processes
from flows.children import Service, answers, encode_plan, fetch
from flows.supervisor import end_predecessor

PROJECT = Path(__file__).resolve().parents[1]
WORKSPACE = "evidently"  # folder of Evidently's workspace, beside the reports
STOP_LIMIT = 60.0  # seconds that the supervisor gets to stop all services

TELEMETRY_OFF = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


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


def build_environment(settings: Settings) -> dict[str, str]:
    """Return what every process that talks to the stack needs in its environment."""
    home = settings.home
    return {
        **to_environment(settings),
        **TELEMETRY_OFF,
        "BENTOML_HOME": str(home / "bentoml"),
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MPLBACKEND": "Agg",
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the shortest; the zombie automation waits for two
        "PREFECT_HOME": str(home / "prefect"),
        "PYTHONDONTWRITEBYTECODE": "",  # a flow's process that compiles its imports anew needs a minute
        "PYTHONUNBUFFERED": "1",
    }


def build_services(settings: Settings) -> list[Service]:
    """Return the processes of the stack."""
    mlflow = () if settings.mlflow_server else (_mlflow,)  # there is one elsewhere
    evidently = (_evidently,) if settings.evidently_port else ()
    return [make(settings) for make in (_prefect, *mlflow, _runner, _prediction, _reports, *evidently)]


def _prefect(settings: Settings) -> Service:
    url = settings.prefect_url
    database = settings.home / "prefect" / "prefect.db"
    options = ("--host", settings.host, "--port", str(settings.prefect_port))
    return Service(
        name="prefect",
        command=(sys.executable, "-m", "prefect", "server", "start", *options),
        host=settings.host,
        port=settings.prefect_port,
        setting=PREFIX + "PREFECT_PORT",
        health=f"{url}/api/ready",
        url=url,
        environment={
            **build_environment(settings),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        },
    )


def _mlflow(settings: Settings) -> Service:
    home = settings.home / "mlflow"
    options = {
        "--host": settings.host,
        "--port": str(settings.mlflow_port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination": str(home / "artifacts"),
    }
    return Service(
        name="mlflow",
        command=(
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *(word for pair in options.items() for word in pair),
        ),
        host=settings.host,
        port=settings.mlflow_port,
        setting=PREFIX + "MLFLOW_PORT",
        health=f"{settings.mlflow_url}/health",
        url=settings.mlflow_url,
        # Job execution alone is 13 processes and 2.5 GB, for features that nothing here uses.
        environment={**build_environment(settings), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )


def _runner(settings: Settings) -> Service:
    url = f"http://{settings.host}:{settings.runner_port}"
    return Service(
        name="runner",
        command=(sys.executable, "-m", "flows.deployments"),
        host=settings.host,
        port=settings.runner_port,
        setting=PREFIX + "RUNNER_PORT",
        health=f"{url}/health",
        url=url,
        environment={
            **build_environment(settings),
            "PREFECT_RUNNER_SERVER_HOST": settings.host,
            "PREFECT_RUNNER_SERVER_PORT": str(settings.runner_port),
        },
        after=() if settings.mlflow_server else ("mlflow",),
        needs=("prefect",),  # a runner that outlives its server no longer hears of cancelled runs
    )


def _prediction(settings: Settings) -> Service:
    options = {
        "--host": settings.host,
        "--port": str(settings.service_port),
        "--working-dir": str(PROJECT),
    }
    words = (word for pair in options.items() for word in pair)
    return Service(
        name="service",
        command=(sys.executable, "-m", "bentoml", "serve", "services.prediction:PredictionService", *words),
        host=settings.host,
        port=settings.service_port,
        setting=PREFIX + "SERVICE_PORT",
        health=f"{settings.service_url}/readyz",
        url=settings.service_url,
        # One row at a time leaves nothing to share out: more threads a worker only get in each other's way.
        environment={**build_environment(settings), "OMP_NUM_THREADS": "1"},
        grace=15.0,
    )


def _reports(settings: Settings) -> Service:
    return Service(
        name="reports",
        command=(sys.executable, "-m", "flows.reports"),
        host=settings.host,
        port=settings.reports_port,
        setting=PREFIX + "REPORTS_PORT",
        health=settings.reports_url,
        url=settings.reports_url,
        environment=build_environment(settings),
    )


def _evidently(settings: Settings) -> Service:
    options = {
        "--host": settings.host,
        "--port": str(settings.evidently_port),
        "--workspace": str(settings.home / "reports" / WORKSPACE),
    }
    words = (word for pair in options.items() for word in pair)
    return Service(
        name="evidently",
        command=(sys.executable, "-m", "evidently.cli", "ui", *words),
        host=settings.host,
        port=settings.evidently_port,
        setting=PREFIX + "EVIDENTLY_PORT",
        health=f"{settings.evidently_url}/api/version",
        url=settings.evidently_url,
        environment=build_environment(settings),
        # Slow to start and needed by nobody but readers: it neither holds up the others nor ends them.
        after=("runner", "service", "reports"),
        background=True,
    )


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
            (sys.executable, "-m", "flows.supervisor"),
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
