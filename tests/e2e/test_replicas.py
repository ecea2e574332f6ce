"""Replicas behind the balancer, killed and restarted under load: real processes, real HTTP, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from feature_repo.contract import Period
from feature_repo.errors import StackError
from feature_repo.settings import Settings, to_environment
from flows.local.replicas import Layout, describe_replicas, require_replicas, running_replicas
from flows.local.rolling_restart import restart_replicas
from flows.local.stack import Stack
from flows.local.stack_services import PROJECT
from services.journal import Journal
from tests.load import Load, Tally, steady_load
from tests.ports import find_free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("CI") and not shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin"),
        reason="HAProxy is not installed: apt-get install haproxy",
    ),
]
ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
FLIGHT = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400,
    "scheduled_departure": "2013-02-05T17:15:00Z",
    "requested_at": "2013-02-05T15:00:00Z",
}


@dataclass
class World:
    """Two replicas of one worker each, and clients that never rest."""

    settings: Settings
    stack: Stack
    load: Load

    def pid(self, name: str) -> int:
        return self.stack.read().service(name).pid or 0

    def takes_requests(self, name: str) -> bool:
        return {one["name"]: one["traffic"] for one in describe_replicas(self.settings)}[name] == "UP"


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), mlflow_port=1, service_workers=1)
    layout = Layout(find_free_port(), find_free_port(), (find_free_port(), find_free_port()))
    with running_replicas(settings, layout) as stack:
        url = stack.service("balancer").url
        with steady_load(url, [FLIGHT, {**FLIGHT, "flight": 1}], clients=4, pause=0.002) as load:
            yield World(settings, stack, load)


def check_answers(world: World, seen: Tally) -> None:
    """Nobody was left without an answer, and what was acknowledged is in the journal."""
    assert seen.failed == []
    assert seen.answered == seen.sent > 0
    journal = Journal(world.settings.home / "journal" / "journal.db")
    assert set(seen.ids) <= set(journal.read_predictions(ALWAYS)["prediction_id"])


def test_no_request_is_lost_when_a_replica_is_killed(world):
    """All of its processes get kill -9 at once; the supervisor brings it back, and it gets requests again."""
    assert wait_until(lambda: world.takes_requests("replica-1"))
    replica = psutil.Process(world.pid("replica-1"))
    world.load.cut()
    for process in (replica, *replica.children(recursive=True)):
        process.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not world.takes_requests("replica-1"))
    assert wait_until(lambda: world.pid("replica-1") not in (0, replica.pid))
    assert wait_until(lambda: world.takes_requests("replica-1"))
    check_answers(world, world.load.cut())


def test_no_request_is_lost_in_a_rolling_restart(world):
    """Each replica is a new process afterwards, and at no time were two of them out."""
    before = {name: world.pid(name) for name in ("replica-1", "replica-2")}
    steps: list[tuple[str, str]] = []
    world.load.cut()
    assert restart_replicas(world.settings, lambda name, doing: steps.append((name, doing))) == 2
    check_answers(world, world.load.cut())
    doings = ("draining", "restarting", "back")
    assert steps == [(name, doing) for name in before for doing in doings]
    assert all(world.pid(name) not in (0, pid) for name, pid in before.items())


def test_status_says_that_all_take_requests(world):
    """With what each has answered, for people and for programs."""
    done = subprocess.run(
        (sys.executable, "-m", "flows.cli", "replicas", "status", "--json"),
        cwd=PROJECT,
        env={**os.environ, **to_environment(world.settings)},
        capture_output=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert [(one["name"], one["traffic"]) for one in told] == [("replica-1", "UP"), ("replica-2", "UP")]
    assert all(one["answered"] > 0 for one in told)


def test_a_home_has_one_balancer(world):
    """A second one is refused, and the first one's configuration is as it was."""
    config = world.settings.home / "replicas" / "replicas.cfg"
    before = config.read_text()
    with (
        pytest.raises(StackError, match="perennial replicas down"),
        running_replicas(world.settings, Layout(1, 2, (3,))),
    ):
        pass
    assert config.read_text() == before


def test_without_replicas_the_commands_say_how_to_start_them(tmp_path: Path) -> None:
    """A home on which nothing runs is an error with a next step."""
    with pytest.raises(StackError, match="perennial replicas up"):
        require_replicas(Settings(home=tmp_path))
