"""What the supervisor asks of the operating system: marks, leashes, ports and endings."""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable

import psutil

from feature_repo.errors import StackError

MARK = "STACK_MARK"  # in the environment of all that a stack starts: "<stack id>/<service>"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leash_to_parent() -> Callable[[], None]:
    """Return what a new child runs before exec so that it is told to stop when this process dies."""
    parent = os.getpid()

    def leash() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it died before the leash was on
                os._exit(1)

    return leash


def find_marked(mark: str) -> list[psutil.Process]:
    """Return the live processes, this one left out, that carry a mark starting with `mark`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK, "").startswith(mark):
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, a zombie, or another user's
    return found


def find_adopted(known: Iterable[int]) -> list[psutil.Process]:
    """Return the children of this process that it did not start itself."""
    known = set(known)
    return [child for child in psutil.Process().children() if child.pid not in known]


def end_processes(processes: Iterable[psutil.Process], grace: float) -> int:
    """Ask each to stop, kill those still there after `grace` seconds; return how many there were."""
    there = list(processes)
    for process in there:
        _send(process, signal.SIGTERM)
    for process in _await_end(there, grace):
        _send(process, signal.SIGKILL)
    _await_end(there, 5)
    return len(there)


def _await_end(there: Iterable[psutil.Process], limit: float) -> list[psutil.Process]:
    """Wait until all have ended or `limit` seconds have passed; return those still there.

    A zombie has ended: only its parent, which may be busy, can put it away.
    """
    deadline = time.monotonic() + limit
    left = [process for process in there if is_alive(process)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if is_alive(process)]
    return left


def is_alive(process: psutil.Process) -> bool:
    """Tell whether the process runs: it exists, is the same one, and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def find_process(pid: int | None, created: float | None) -> psutil.Process | None:
    """Return the live process of that pid and start time; None if it is gone or the pid was reused."""
    if not pid:
        return None
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - (created or 0)) < 1
        return process if same and is_alive(process) else None
    except psutil.Error:
        return None


def check_port(host: str, port: int, service: str, setting: str) -> None:
    """Raise StackError if `service` cannot listen on that port, naming who holds it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"port {port} for {service}",
                got=_describe_holder(port) or error.strerror or str(error),
                expected=f"a free port on {host}",
                next_step=f"End that process, or set {setting} to another port.",
            ) from None


def _describe_holder(port: int) -> str | None:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:  # macOS asks for root
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "a process of another user that holds it"
            try:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()}) that holds it"
            except psutil.Error:
                return f"process {connection.pid} that holds it"
    return None


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return  # gone meanwhile, which is what was wanted
