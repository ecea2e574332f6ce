"""The balancer's promises, on a real HAProxy with our configuration, before small servers that misbehave."""

import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from feature_repo.errors import StackError
from flows.local.balancer import Balancer, find_haproxy
from tests.ports import find_free_port

# Without it on a developer's machine these are left out; in CI they never are.
pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin"),
    reason="HAProxy is not installed: apt-get install haproxy",
)


class Replica(http.server.ThreadingHTTPServer):
    """Answers with its name, or does to POST what `mood` says: close, hang, shed."""

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.mood, self.ready = name, "", True
        self.asked = 0
        self.held, self.freed = threading.Event(), threading.Event()

    def handle_error(self, *about: object) -> None:
        """Say nothing of a balancer that has gone: that is what some tests are about."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        self._answer(200 if self.path != "/readyz" or self.server.ready else 503)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        if self.server.mood == "close":
            self.close_connection = True
        elif self.server.mood == "shed":
            self._answer(503)
        else:
            if self.server.mood == "hold":
                self.server.held.set()
                self.server.freed.wait(20)
            self._answer(200)

    def _answer(self, status: int) -> None:
        body = self.server.name.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said: object) -> None:
        pass


class World:
    """Two replicas behind a balancer, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.one, self.two = Replica("one"), Replica("two")
        self.balancer = Balancer(folder)
        self.port, self.stats = find_free_port(), find_free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    @contextmanager
    def open(self) -> Iterator["World"]:
        environment = self.balancer.build_environment("127.0.0.1", self.port, self.stats)
        self.balancer.write_config({"one": self.one.address, "two": self.two.address}, environment)
        with ExitStack() as stack:
            for server in (self.one, self.two):
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
                stack.callback(server.freed.set)
                threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            running = subprocess.Popen(
                self.balancer.build_command(),
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(running.wait)
            stack.callback(running.kill)
            stack.enter_context(self.client)
            assert wait_until(self.is_up)
            yield self

    def is_up(self) -> bool:
        try:
            return all(one.up for one in self.balancer.read_servers().values())
        except StackError:
            return False

    def ask(self, body: bytes = b"{}") -> httpx.Response:
        return self.client.post("/predict", content=body)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path).open() as opened:
        yield opened


@pytest.mark.parametrize("size", [2, 200_000], ids=["one item", "a long list"])
def test_a_request_whose_replica_died_is_answered_by_another(world, size):
    """A connection that closes without a byte costs the client nothing, however long the list it sent."""
    world.one.mood = "close"
    answers = [world.ask(b" " * size) for _ in range(10)]
    assert {(a.status_code, a.text) for a in answers} == {(200, "two")}
    assert world.one.asked > 0
    assert world.balancer.read_servers()["one"].retried == world.one.asked


def test_a_request_to_a_replica_that_hangs_is_answered_by_another(world):
    """After five seconds of silence the request goes elsewhere."""
    world.one.mood = "hold"
    answers = [world.ask() for _ in range(2)]
    assert {(a.status_code, a.text) for a in answers} == {(200, "two")}
    assert world.one.asked == world.balancer.read_servers()["one"].retried > 0


def test_a_replica_that_sheds_load_is_not_asked_again_elsewhere(world):
    """Its 503 goes to the client: a retry would drown the others."""
    world.one.mood = world.two.mood = "shed"
    assert [world.ask().status_code for _ in range(6)] == [503] * 6
    assert world.one.asked + world.two.asked == 6


def test_a_drained_replica_gets_no_new_request_and_finishes_its_own(world):
    """Sessions are counted until the last one is answered; admitted again, it takes its share again."""
    world.one.mood = world.two.mood = "hold"
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                httpx.post(world.client.base_url.join("/predict"), content=b"{}", timeout=30)
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert world.one.held.wait(10) and world.two.held.wait(10)
    world.balancer.drain("one")
    assert world.balancer.read_servers()["one"].sessions == 1
    assert not world.balancer.read_servers()["one"].up
    world.one.mood = world.two.mood = ""
    world.one.freed.set()
    world.two.freed.set()
    for thread in threads:
        thread.join()
    assert {a.text for a in answers} == {"one", "two"}
    assert wait_until(lambda: world.balancer.read_servers()["one"].sessions == 0)
    assert {world.ask().text for _ in range(6)} == {"two"}
    world.balancer.admit("one")
    assert {world.ask().text for _ in range(6)} == {"one", "two"}


def test_a_replica_that_is_not_ready_is_left_out_until_it_is(world):
    """Health is asked at /readyz, and nobody but the balancer notices."""
    world.one.ready = False
    assert wait_until(lambda: not world.balancer.read_servers()["one"].up)
    assert {world.ask().text for _ in range(6)} == {"two"}
    world.one.ready = True
    assert wait_until(world.is_up)
    assert {world.ask().text for _ in range(6)} == {"one", "two"}


def test_with_no_replica_ready_they_are_asked_all_the_same(world):
    """Whether a request is answered is for the service to say, not for its health check."""
    world.one.ready = world.two.ready = False
    assert wait_until(lambda: not any(one.up for one in world.balancer.read_servers().values()))
    assert {(a.status_code, a.text) for a in (world.ask() for _ in range(6))} == {(200, "one"), (200, "two")}


def test_with_no_replica_at_all_the_answer_says_so_and_when_to_come_again(world):
    """The error has the form of the service's own."""
    for server in (world.one, world.two):
        server.shutdown()
        server.server_close()
    answer = world.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert set(answer.json()["error"]) == {"field", "got", "expected", "next_step"}


def test_metrics_of_one_replica_are_not_passed_off_as_those_of_all(world):
    """The balancer refuses the path, and has its own counts where only this machine can ask."""
    assert world.client.get("/metrics").status_code == 404
    own = httpx.get(f"http://127.0.0.1:{world.stats}/metrics")
    assert "haproxy_server_status" in own.text
    assert httpx.get(f"http://127.0.0.1:{world.stats}/livez").status_code == 200


def test_a_name_that_the_balancer_does_not_know_is_an_error(world):
    """A command that changed nothing does not pass for one that did."""
    with pytest.raises(StackError, match="nobody"):
        world.balancer.drain("nobody")


def test_a_balancer_that_does_not_run_is_an_error(tmp_path):
    """It names the socket and the command that shows more."""
    with pytest.raises(StackError, match="perennial replicas status"):
        Balancer(tmp_path).read_servers()


def test_without_haproxy_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    """The next step is a command to type."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="apt-get install haproxy"):
        find_haproxy(beyond=())


def test_a_path_too_long_for_a_socket_is_told_before_anything_starts(tmp_path):
    """The system cuts such paths off; nobody should have to guess why."""
    with pytest.raises(StackError, match="PERENNIAL_HOME"):
        Balancer(tmp_path / ("long" * 30)).write_config({"one": "127.0.0.1:1"}, {})


def test_what_haproxy_finds_wrong_is_in_the_error(tmp_path):
    """With the line that it names."""
    balancer = Balancer(tmp_path)
    with pytest.raises(StackError, match=r"replicas\.cfg:2"):
        balancer.write_config({"one": "no address"}, balancer.build_environment("127.0.0.1", 3100, 3199))
