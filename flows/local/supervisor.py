"""Keeps a set of services running: ordered start, health, restart with backoff, ordered stop.

Run as `python -m flows.local.supervisor`. The first line of its input is the plan, in JSON; the input then
stays open as a lifeline: when it ends, because the owner closed it or died, everything is stopped.
What happens is written to `stack.json` in the plan's home, which is all that others need to read.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from feature_repo.errors import StackError
from flows.local import processes
from flows.local.children import Child, Service, answers, decode_plan, read_tail

LIFELINE = 0  # standard input
TICK = 0.1  # seconds between two looks at the children
PROBE_STARTING, PROBE_HEALTHY = 0.3, 3.0  # seconds between two health probes
STABLE = 60.0  # seconds of health after which earlier crashes are forgiven
LONGEST_BACKOFF = 30.0
BOOT_ATTEMPTS = 3  # a service that was never healthy is given up after as many exits
SILENT_AFTER = 3  # failed probes in a row
HUNG_AFTER = 90.0  # seconds without an answer after which a service is restarted


class Supervisor:
    """Starts, watches and stops the services of one home."""

    def __init__(self, stack_id: str, home: Path, services: list[Service]) -> None:
        self.id, self.home = stack_id, home
        self.children = {s.name: Child(s, home / "logs" / f"{s.name}.log") for s in services}
        self.phase = "starting"
        self.error: dict[str, str] | None = None
        self.asked_to_stop = 0
        self._written = ""

    def run(self) -> None:
        """Keep everything running until asked to stop. Raises StackError if it cannot start."""
        processes.adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        for child in self.children.values():
            s = child.service
            processes.check_port(s.host, s.port, s.name, s.setting)
        try:
            while not self.asked_to_stop:
                self._tick()
                if select.select([LIFELINE], [], [], TICK)[0] and not os.read(LIFELINE, 4096):
                    break
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop all, last started first, then end whatever they left behind."""
        self.phase = "stopping"
        hurry_from = self.asked_to_stop
        for child in reversed(list(self._ordered())):
            self._ask_to_stop(child)
            while child.process is not None:
                if self.asked_to_stop > hurry_from + 1:
                    child.kill_at = 0.0
                self._reap(child)
                self.write()
                time.sleep(TICK / 2)
            child.state = "stopped"
        processes.end_processes(processes.find_marked(self.id + "/"), grace=2)
        self._collect_zombies()
        self.phase = "failed" if self.error else "stopped"
        self.write()

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked_to_stop += 1

    def _tick(self) -> None:
        now = time.monotonic()
        self._heed_requests()
        for child in self._ordered():
            self._reap(child)
            if child.process is None and now >= child.not_before and self._may_start(child):
                self._start(child)
            elif child.process is not None and child.state != "stopping" and now >= child.next_probe:
                self._probe(child)
        if self.phase == "starting" and all(
            c.ever_healthy or c.service.background for c in self.children.values()
        ):
            self.phase = "running"
        self._collect_zombies()
        self.write()

    def _heed_requests(self) -> None:
        """Restart what `ask_restart` was called for; a request for what does not run is met already."""
        for name, child in self.children.items():
            asked = self.home / f"{name}.restart"
            if asked.exists():
                asked.unlink()
                self._ask_to_stop(child)

    def _ordered(self) -> Iterator[Child]:
        done: set[str] = set()
        while len(done) < len(self.children):
            ready = [
                c
                for name, c in self.children.items()
                if name not in done and done.issuperset(c.service.after + c.service.needs)
            ]
            if not ready:
                left = sorted(set(self.children) - done)
                raise StackError(
                    "order of the services",
                    got=f"a circle among {left}",
                    expected="each to come after others",
                    next_step="Correct `after` and `needs`.",
                )
            done.update(c.service.name for c in ready)
            yield from ready

    def _may_start(self, child: Child) -> bool:
        once = all(self.children[name].ever_healthy for name in child.service.after)
        return once and all(self.children[name].state == "healthy" for name in child.service.needs)

    def _start(self, child: Child) -> None:
        service = child.service
        environment = {**os.environ, **service.environment, processes.MARK: f"{self.id}/{service.name}"}
        with _open_log(child) as log:
            # The leash is cleared by nothing that we start, and a new session keeps Ctrl-C from
            # reaching a child before its dependants were stopped.
            child.process = subprocess.Popen(
                service.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=processes.leash_to_parent(),  # noqa: PLW1509 - there are no threads here
            )
        child.state, child.started, child.missed = "starting", time.monotonic(), 0
        child.next_probe, child.kill_at = child.started + PROBE_STARTING, None

    def _probe(self, child: Child) -> None:
        settled = child.state in ("healthy", "silent")
        now_healthy = answers(child.service.health, timeout=2.0 if settled else 1.0)
        now = time.monotonic()
        child.next_probe = now + (PROBE_HEALTHY if now_healthy else PROBE_STARTING)
        if now_healthy:
            if child.state != "healthy":
                child.state, child.healthy_since = "healthy", now
            child.ever_healthy, child.missed, child.answered = True, 0, now
            if now - child.healthy_since > STABLE:
                child.crashes = 0
        elif settled:
            child.missed += 1
            child.state = "silent" if child.missed >= SILENT_AFTER else child.state
            if now - child.answered > HUNG_AFTER:
                self._ask_to_stop(child)
        elif now - child.started > child.service.patience:
            if not child.ever_healthy and not child.service.background:
                raise self._give_up(child, f"no answer from {child.service.health}")
            self._ask_to_stop(child)

    def _ask_to_stop(self, child: Child) -> None:
        if child.process is not None and child.state != "stopping":
            child.state, child.kill_at = "stopping", time.monotonic() + child.service.grace
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(child.service.stop_signal)

    def _reap(self, child: Child) -> None:
        """Notice that a process ended; end what it left behind and plan its restart."""
        if child.process is None:
            return
        code = child.process.poll()
        if code is None:
            if child.kill_at is not None and time.monotonic() > child.kill_at:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
            return
        asked, child.process = child.state == "stopping", None
        self._end_leftovers(child.service.name)
        if self.phase == "stopping":
            return
        if not asked:
            child.crashes += 1
            hopeless = not child.ever_healthy and child.crashes >= BOOT_ATTEMPTS
            if hopeless and not child.service.background:
                raise self._give_up(child, f"exit code {code}, {child.crashes} times")
        wait = 0.0 if asked else min(LONGEST_BACKOFF, 2.0 ** (child.crashes - 1))
        child.state, child.restarts = "restarting", child.restarts + 1
        child.not_before = time.monotonic() + wait
        for other in self.children.values():
            if child.service.name in other.service.needs:
                self._ask_to_stop(other)

    def _end_leftovers(self, name: str) -> None:
        known = [c.process.pid for c in self.children.values() if c.process is not None]
        alive = tuple(f"{self.id}/{n}" for n, c in self.children.items() if c.process is not None)
        strays = {p.pid: p for p in processes.find_marked(f"{self.id}/{name}")}
        for orphan in processes.find_adopted(known):
            with contextlib.suppress(psutil.Error):
                if orphan.environ().get(processes.MARK) not in alive:
                    strays[orphan.pid] = orphan
        processes.end_processes(strays.values(), grace=2)

    def _collect_zombies(self) -> None:
        known = [c.process.pid for c in self.children.values() if c.process is not None]
        for orphan in processes.find_adopted(known):
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if orphan.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(orphan.pid, os.WNOHANG)

    def _give_up(self, child: Child, got: str) -> StackError:
        return StackError(
            f"{child.service.name} of the local stack",
            got=f"{got}; the end of its log says:\n{read_tail(child.log)}\n",
            expected="a process that answers its health check",
            next_step=f"Read {child.log}.",
        )

    def write(self) -> None:
        """Write `stack.json`, in one step, if anything changed."""
        me = psutil.Process()
        content = json.dumps(
            {
                "id": self.id,
                "pid": me.pid,
                "created": me.create_time(),
                "phase": self.phase,
                "error": self.error,
                "services": {n: c.describe() for n, c in self.children.items()},
            },
            indent=1,
        )
        if content == self._written:
            return
        fresh = self.home / "stack.json.new"
        try:
            fresh.write_text(content)
            fresh.replace(self.home / "stack.json")
        except OSError:
            if not self._written:  # nobody would ever know of this stack
                raise
            return  # a full disk ends no service: it is written once there is room
        self._written = content


def _open_log(child: Child) -> IO[bytes]:
    """Open a child's log with a line on what is started now; without room for it, nowhere."""
    head = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(child.service.command)}\n"
    try:
        child.log.parent.mkdir(parents=True, exist_ok=True)
        log = child.log.open("ab", buffering=0)
    except OSError:
        return Path(os.devnull).open("wb", buffering=0)
    with contextlib.suppress(OSError):
        log.write(head.encode())
    return log


def ask_restart(home: Path, name: str) -> None:
    """Have the supervisor of that home stop a service, with its grace, and start it again at once."""
    (home / f"{name}.restart").touch()


def lock_home(home: Path) -> IO[bytes]:
    """Hold that home for one stack. Raises StackError if another stack runs on it."""
    home.mkdir(parents=True, exist_ok=True)
    lock = (home / "stack.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StackError(
            f"home {home}",
            got="another stack that runs on it",
            expected="one stack per home",
            next_step="Stop it with `perennial down`, or set PERENNIAL_HOME to another folder.",
        ) from None
    return lock


def end_predecessor(home: Path) -> int:
    """End what a stack that died on that home left running; return how many processes that were."""
    try:
        stack_id = json.loads((home / "stack.json").read_text())["id"]
    except (OSError, ValueError, KeyError):
        return 0
    return processes.end_processes(processes.find_marked(f"{stack_id}/"), grace=5)


def describe_error(error: StackError) -> dict[str, str]:
    """Return the error's four parts, to be rebuilt by the reader of `stack.json`."""
    return {
        "subject": error.subject,
        "got": str(error.got),
        "expected": str(error.expected),
        "next_step": error.next_step,
    }


def main() -> int:
    """Supervise the plan on standard input; exit 1 with the reason in `stack.json` if it fails."""
    # Unbuffered: a buffered reader would swallow the lifeline's end.
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(LIFELINE, 1 << 16)
        if not piece:
            return 1
        line += piece
    stack_id, home, services = decode_plan(line.decode())
    supervisor = Supervisor(stack_id, home, services)
    try:
        with lock_home(home):
            end_predecessor(home)
            try:
                supervisor.run()
            except StackError as error:
                supervisor.error = describe_error(error)
                supervisor.phase = "failed"
                supervisor.write()
                raise
    except StackError as error:
        print(json.dumps(describe_error(error)), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
