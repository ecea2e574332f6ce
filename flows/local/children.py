"""What the supervisor keeps running: a service, its process, its health, and the plan that names them."""

import http.client
import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True, slots=True)
class Service:
    """One process to keep running.

    after    services that must have been healthy once before this one starts
    needs    services that must be healthy now, and whose restart restarts this one
    grace    seconds from the request to stop until it is killed
    patience seconds that the first start may take until healthy
    stop_signal what asks it to stop
    background  whether the stack counts as running, and goes on running, without it
    """

    name: str
    command: tuple[str, ...]
    host: str
    port: int
    setting: str
    health: str
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    grace: float = 10.0
    patience: float = 240.0
    stop_signal: int = int(signal.SIGTERM)
    background: bool = False


@dataclass(slots=True)
class Child:
    """A service and what is known about its process."""

    service: Service
    log: Path
    process: subprocess.Popen[bytes] | None = None
    state: str = "waiting"  # waiting, starting, healthy, silent, stopping, restarting, stopped
    restarts: int = 0
    crashes: int = 0  # since it was last stable
    ever_healthy: bool = False
    started: float = 0.0
    healthy_since: float = 0.0
    answered: float = 0.0
    next_probe: float = 0.0
    missed: int = 0
    not_before: float = 0.0
    kill_at: float | None = None

    def describe(self) -> dict[str, Any]:
        """Return what `stack.json` says of it."""
        pid = self.process.pid if self.process else None
        service = self.service
        return {
            "pid": pid,
            "port": service.port,
            "url": service.url,
            "health": service.health,
            "state": self.state,
            "restarts": self.restarts,
            "log": str(self.log),
            "background": service.background,
        }


def fetch(url: str, timeout: float) -> bytes | None:
    """Return what a GET of that URL is answered with; None without an answer of a status below 400."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", urlunsplit(("", "", parts.path or "/", parts.query, "")))
        answer = connection.getresponse()
        return answer.read() if answer.status < 400 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def answers(url: str, timeout: float) -> bool:
    """Tell whether a GET of that URL is answered well."""
    return fetch(url, timeout) is not None


def read_tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 8192))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def encode_plan(stack_id: str, home: Path, services: Sequence[Service]) -> str:
    """Return the line that the supervisor reads first."""
    return json.dumps({"id": stack_id, "home": str(home), "services": [asdict(s) for s in services]})


def decode_plan(line: str) -> tuple[str, Path, list[Service]]:
    """Read back what `encode_plan` wrote."""
    plan = json.loads(line)
    return plan["id"], Path(plan["home"]), [_decode_service(given) for given in plan["services"]]


def _decode_service(given: dict[str, Any]) -> Service:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Service(**fields)
