"""HAProxy, and the only caller of it: its configuration, what it says of the replicas, and draining.

The configuration is infra/haproxy/haproxy.cfg as it is; only the list of replicas is written here.
"""

import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_repo.errors import StackError
from flows.local.stack_services import PROJECT

CONFIG = PROJECT / "infra" / "haproxy" / "haproxy.cfg"
BACKEND = "replicas"
ADMIN_FOLDERS = ("/usr/sbin", "/usr/local/sbin")  # where Debian puts it, and only root looks
LONGEST_SOCKET = 90  # bytes of its path: the system takes 107, and HAProxy appends to it while it starts


@dataclass(frozen=True, slots=True)
class ServerState:
    """A replica as the balancer sees it: `status` is UP, DOWN, DRAIN or one of these on its way."""

    name: str
    status: str
    sessions: int  # requests under way, and waiting for their turn
    answered: int
    retried: int  # tries that ended without an answer, whose request was then tried again

    @property
    def up(self) -> bool:
        """Whether requests are sent there."""
        return self.status.startswith("UP")


@dataclass(frozen=True, slots=True)
class Balancer:
    """The balancer that works in a folder."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where it takes commands."""
        return self.folder / "haproxy.sock"

    def build_command(self) -> tuple[str, ...]:
        """Return what starts it in the foreground. Raises StackError if HAProxy is not installed."""
        return (find_haproxy(), "-db", "-f", str(CONFIG), "-f", str(self.folder / "replicas.cfg"))

    def build_environment(self, host: str, port: int, stats_port: int) -> dict[str, str]:
        """Return the addresses and paths that the configuration asks for."""
        return {
            "BALANCER_BIND": f"{host}:{port}",
            "BALANCER_STATS": f"127.0.0.1:{stats_port}",
            "BALANCER_SOCKET": str(self.socket),
        }

    def write_config(self, replicas: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """Write the replicas, as addresses by name, and have HAProxy check all of it. Raises StackError."""
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET:
            raise StackError(
                "socket of the balancer",
                got=f"a path of {len(os.fsencode(self.socket))} bytes, {self.socket}",
                expected=f"at most {LONGEST_SOCKET}",
                next_step="Set PERENNIAL_HOME to a folder with a shorter path.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / ".replicas.cfg.new"
        part.write_text(
            _list_servers(BACKEND, replicas) + _list_servers("last-resort", replicas, " no-check")
        )
        part.replace(self.folder / "replicas.cfg")
        checked = subprocess.run(
            (*self.build_command(), "-c"),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if checked.returncode:
            raise StackError(
                "configuration of the balancer",
                got=checked.stderr.strip() or f"exit code {checked.returncode}",
                expected="one that `haproxy -c` finds valid, of HAProxy 2.6 or newer",
                next_step=f"Look at {CONFIG} and `haproxy -v`.",
            )

    def read_servers(self) -> dict[str, ServerState]:
        """Return the replicas by name. Raises StackError if the balancer does not answer."""
        told = self._ask(f"show stat {BACKEND} 4 -1").lstrip("# ")
        return {
            row["svname"]: ServerState(
                name=row["svname"],
                status=row["status"],
                sessions=int(row["scur"]) + int(row["qcur"]),
                answered=sum(int(row[f"hrsp_{kind}"] or 0) for kind in ("2xx", "3xx", "4xx", "5xx")),
                retried=int(row["wretr"]),
            )
            for row in csv.DictReader(told.splitlines())
        }

    def drain(self, name: str) -> None:
        """Send no new request to a replica; those under way go on. Raises StackError."""
        self._set_state(name, "drain")

    def admit(self, name: str) -> None:
        """Send requests to a replica again, as soon as its checks pass. Raises StackError."""
        self._set_state(name, "ready")

    def _set_state(self, name: str, state: str) -> None:
        said = self._ask(f"set server {BACKEND}/{name} state {state}").strip()
        if said:
            raise self._complain(f"{said!r} to a change of {name} to {state}")

    def _ask(self, command: str) -> str:
        parts = []
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(f"{command}\n".encode())
                while part := connection.recv(1 << 16):
                    parts.append(part)
        except OSError as error:
            raise self._complain(str(error)) from error
        return b"".join(parts).decode()

    def _complain(self, got: str) -> StackError:
        return StackError(
            f"balancer at {self.socket}",
            got=got,
            expected="an answer to a command",
            next_step="Look at `perennial replicas status`.",
        )


def _list_servers(backend: str, replicas: Mapping[str, str], options: str = "") -> str:
    servers = (f"    server {name} {address}{options}\n" for name, address in replicas.items())
    return f"backend {backend} from service\n{''.join(servers)}"


def find_haproxy(beyond: Sequence[str] = ADMIN_FOLDERS) -> str:
    """Return the path of HAProxy, on the PATH or beyond. Raises StackError if it is not installed."""
    found = shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *beyond)))
    if found is None:
        raise StackError(
            "haproxy, the balancer",
            got="no such command",
            expected="HAProxy 2.6 or newer",
            next_step="Install it: `apt-get install haproxy`.",
        )
    return found
