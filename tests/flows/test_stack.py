"""The supervisor keeps processes running, in order, and leaves none behind, however it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from feature_repo.errors import StackError
from feature_repo.settings import Settings, load_settings
from flows.local import processes
from flows.local.children import Service
from flows.local.stack import Stack, check_health, read_stack, require_stack, running_stack, stop_stack
from flows.local.stack_services import PROJECT, build_services
from flows.local.supervisor import ask_restart
from tests.ports import find_free_port

SERVER = """
import http.server, subprocess, sys
if "--with-child" in sys.argv:  # one that leaves its group and is deaf to SIGTERM
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
if "--crash" in sys.argv:
    sys.exit("the stand-in cannot start")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def stand_in(name: str, *flags: str, port: int = 0, **options: object) -> Service:
    """A small server that answers, or misbehaves as its flags say."""
    port = port or find_free_port()
    url = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-c", SERVER, str(port), *flags)
    return Service(name, command, "127.0.0.1", port, f"PERENNIAL_{name.upper()}_PORT", url, url, **options)  # type: ignore[arg-type]


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False


def left_of(stack: Stack) -> list[psutil.Process]:
    return processes.find_marked(f"{stack.id}/")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[object]:
    yield load_settings(home=tmp_path / "home")
    stop_stack(tmp_path / "home", limit=5)


def test_a_stack_answers_while_the_block_runs_and_is_gone_after_it(settings):
    """Inside the block every service is healthy; after it none is left, nor what they started."""
    with running_stack(settings, [stand_in("first"), stand_in("second", "--with-child")]) as stack:
        assert check_health(stack) == {"first": True, "second": True}
        assert len(left_of(stack)) == 3
    assert left_of(stack) == []
    assert stack.read().phase == "stopped"


def test_a_service_starts_after_those_that_it_comes_after(settings):
    """A service is started only once those that it comes after were healthy."""
    seen: list[dict[str, str]] = []
    late, early = stand_in("late", after=("early",)), stand_in("early")
    with running_stack(
        settings, [late, early], on_change=lambda s: seen.append({x.name: x.state for x in s.services})
    ):
        pass
    assert all(states["early"] == "healthy" for states in seen if states["late"] != "waiting")


def test_a_service_that_dies_is_started_again_and_its_orphans_are_ended(settings):
    """After kill -9 of a service a new process answers, and the old one's child is gone."""
    with running_stack(settings, [stand_in("only", "--with-child")]) as stack:
        before = left_of(stack)
        os.kill(stack.service("only").pid, signal.SIGKILL)
        assert wait_until(lambda: stack.read().service("only").restarts == 1)
        assert wait_until(lambda: check_health(stack.read())["only"])
        assert not any(process.is_running() for process in before)
        assert len(left_of(stack)) == 2


def test_a_service_restarts_with_the_one_that_it_needs(settings):
    """When a needed service dies, the one that needs it gets a new process too."""
    with running_stack(settings, [stand_in("server"), stand_in("runner", needs=("server",))]) as stack:
        old = stack.service("runner").pid
        os.kill(stack.service("server").pid, signal.SIGKILL)
        assert wait_until(lambda: stack.read().service("runner").state == "healthy" != old)
        assert wait_until(lambda: stack.read().service("runner").pid not in (None, old))


def test_a_background_service_neither_holds_up_the_stack_nor_ends_it(settings):
    """The stack runs while such a service crashes for good, tries it again, and says that it is down."""
    services = [stand_in("first"), stand_in("slow", "--crash", background=True)]
    with running_stack(settings, services) as stack:
        assert wait_until(lambda: stack.read().service("slow").restarts > 3)
        assert stack.read().phase == "running"
        assert check_health(stack.read()) == {"first": True, "slow": False}
        assert stack.read().service("slow").background


def test_a_service_is_restarted_on_request_and_at_once(settings):
    """It is stopped by the signal that it wants, counted as no crash, and a request for nobody is dropped."""
    (settings.home).mkdir(parents=True)
    ask_restart(settings.home, "only")  # left over from an earlier stack
    with running_stack(settings, [stand_in("only", stop_signal=signal.SIGUSR1)]) as stack:
        assert stack.service("only").restarts == 0
        for restarts in (1, 2, 3):
            old = stack.read().service("only").pid
            ask_restart(settings.home, "only")
            assert wait_until(lambda n=restarts: stack.read().service("only").restarts == n)
            assert wait_until(lambda: stack.read().service("only").state == "healthy")
            assert stack.read().service("only").pid not in (None, old)
        assert list(settings.home.glob("*.restart")) == []


def test_a_full_disk_ends_no_service(tmp_path):
    """What cannot be written down is written later; the log of what starts meanwhile goes nowhere."""
    from flows.local.supervisor import Supervisor, _open_log

    home = tmp_path / "home"
    supervisor = Supervisor("s", home, [stand_in("one")])
    with pytest.raises(OSError, match="home"):  # of a stack that nobody could know of
        supervisor.write()
    home.mkdir()
    supervisor.write()
    home.rename(tmp_path / "away")
    home.touch()  # a file: nothing can be written below it
    supervisor.phase = "running"
    supervisor.write()
    with _open_log(supervisor.children["one"]) as log:
        assert log.name == os.devnull
    home.unlink()
    (tmp_path / "away").rename(home)
    supervisor.write()
    assert json.loads((home / "stack.json").read_text())["phase"] == "running"


def test_a_taken_port_is_named_with_its_holder_and_its_setting(settings):
    """The error says which port, for which service, who holds it and which setting moves it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with (
            pytest.raises(StackError) as caught,
            running_stack(settings, [stand_in("mlflow", port=port)]),
        ):
            pass
    for part in (str(port), "mlflow", "PERENNIAL_MLFLOW_PORT", str(os.getpid())):
        assert part in str(caught.value)


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log(settings):
    """A service that only ever exits stops the stack, with its own last words in the error."""
    with (
        pytest.raises(StackError, match="the stand-in cannot start") as caught,
        running_stack(settings, [stand_in("good"), stand_in("bad", "--crash")]),
    ):
        pass
    assert "bad" in caught.value.subject
    stack = read_stack(settings.home)
    assert stack is not None and stack.phase == "failed" and left_of(stack) == []


def test_a_home_holds_one_stack_at_a_time(settings):
    """A second stack on the same home is refused and does not disturb the first."""
    with running_stack(settings, [stand_in("first")]) as stack:
        with (
            pytest.raises(StackError, match="another stack"),
            running_stack(settings, [stand_in("second")]),
        ):
            pass
        assert stack.read().running and check_health(stack.read()) == {"first": True}


def test_killing_the_supervisor_leaves_no_orphan(settings):
    """After kill -9 of the supervisor its services end, and the owner ends what they left."""
    with running_stack(settings, [stand_in("only", "--with-child")]) as stack:
        services = [psutil.Process(s.pid) for s in stack.services]
        os.kill(stack.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(p.is_running() for p in services))
        assert stack.read().phase == "dead"
    assert left_of(stack) == []


def test_killing_the_owner_stops_everything(settings, tmp_path):
    """After kill -9 of the process that holds the block the supervisor stops all services."""
    owner = _start_owner(settings.home)
    stack = require_stack(settings)
    owner.kill()
    owner.wait()
    assert wait_until(lambda: left_of(stack) == [])
    assert wait_until(lambda: stack.read().phase == "stopped")


def test_ctrl_c_stops_everything(settings):
    """An interrupted owner leaves its block, and with it no process."""
    owner = _start_owner(settings.home)
    stack = require_stack(settings)
    owner.send_signal(signal.SIGINT)
    owner.wait(timeout=60)
    assert left_of(stack) == [] and stack.read().phase == "stopped"


def test_what_a_killed_stack_left_is_ended_before_the_next_one_starts(settings):
    """With owner and supervisor both killed, the next start on that home ends what is left."""
    owner = _start_owner(settings.home)
    first = require_stack(settings)
    owner.kill()
    os.kill(first.pid, signal.SIGKILL)
    owner.wait()
    with running_stack(settings, [stand_in("next")]):
        assert left_of(first) == []


def test_a_stack_can_be_stopped_from_elsewhere(settings):
    """`stop_stack` ends the stack of a home and says whether there was one."""
    assert not stop_stack(settings.home)
    owner = _start_owner(settings.home)
    stack = require_stack(settings)
    assert stop_stack(settings.home)
    assert left_of(stack) == [] and stack.read().phase == "stopped"
    owner.kill()
    owner.wait()
    assert not stop_stack(settings.home)


def test_no_stack_is_an_error_that_says_how_to_start_one(settings):
    """Work that needs a stack names the command that starts one."""
    with pytest.raises(StackError, match="perennial up"):
        require_stack(settings)


def test_every_service_gets_the_settings_and_no_telemetry(settings):
    """Each process is told where the others are and to send nothing home."""
    for service in build_services(settings):
        given = service.environment
        assert given["PERENNIAL_HOME"] == str(settings.home)
        assert given["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
        assert given["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
        assert given["DO_NOT_TRACK"] == "1" and given["BENTOML_DO_NOT_TRACK"] == "True"


def test_an_mlflow_elsewhere_leaves_none_to_start_here(tmp_path):
    """The stack is told where it is, starts none of its own, and waits for none."""
    elsewhere = Settings(home=tmp_path, mlflow_server="http://mlflow.example:5000")
    services = {service.name: service for service in build_services(elsewhere)}
    assert "mlflow" not in services
    for service in services.values():
        assert "mlflow" not in service.after + service.needs
        assert service.environment["MLFLOW_TRACKING_URI"] == "http://mlflow.example:5000"


def _start_owner(home: Path) -> subprocess.Popen[bytes]:
    """Hold a stack in a process of its own, until it is killed; return once all is healthy."""
    service = stand_in("only", "--with-child")
    code = f"""
import sys, time
sys.path.insert(0, {str(PROJECT)!r})
from feature_repo.settings import Settings, load_settings
from flows.local.stack import running_stack
from flows.local.children import Service
with running_stack(load_settings(home={str(home)!r}), [{service!r}]):
    print("up", flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    owner.stdout.close()
    return owner
