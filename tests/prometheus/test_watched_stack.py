"""`perennial up` brings its alerts along: real Prometheus and Alertmanager beside a small server."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from feature_repo.settings import Settings, to_environment
from flows.local import processes
from flows.local.children import Service
from flows.local.prometheus import INFRA, find_folder, is_expected, read_watch, running_monitoring
from flows.local.stack import read_stack, stop_stack
from flows.local.stack_services import PROJECT
from flows.local.watched_stack import running_watched
from tests.ports import find_free_port

needs_programs = pytest.mark.skipif(
    not os.environ.get("CI") and not shutil.which("prometheus"),
    reason="Prometheus is not installed: apt-get install prometheus prometheus-alertmanager",
)
ALERTS = re.findall(
    r"^ +- alert: ", (INFRA / "prometheus" / "rules" / "alerts.yml").read_text(), re.MULTILINE
)
PAIR = ["alertmanager", "prometheus"]
UP = """
import sys
from flows.local import stack
from flows.cli import app as cli
from tests.prometheus.test_watched_stack import stand_in
stack.build_services = lambda settings: [stand_in(settings)]
sys.argv = ["perennial", "up"]
cli.main()
"""


def stand_in(settings: Settings) -> Service:
    """A small server in the place of the whole stack."""
    port, url = settings.service_port, f"http://127.0.0.1:{settings.service_port}"
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
    return Service("service", command, "127.0.0.1", port, "PERENNIAL_SERVICE_PORT", url, url)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_up(settings: Settings) -> bool:
    """Whether the pair of a home runs."""
    beside = read_stack(find_folder(settings))
    return beside is not None and beside.phase == "running"


def count_left(*homes: Path) -> int:
    """Return how many processes of the stacks of these homes there are."""
    stacks = [read_stack(home) for home in homes]
    return sum(len(processes.find_marked(f"{stack.id}/")) for stack in stacks if stack)


def perennial(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a home to its end."""
    command = (sys.executable, "-m", "flows.cli", *words)
    environment = {**os.environ, **to_environment(settings)}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


@contextmanager
def running_up(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Run `perennial up`, with the small server for the stack's services."""
    environment = {**os.environ, **to_environment(settings), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        (sys.executable, "-c", UP), cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            yield owner
        finally:
            owner.kill()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home with ports of its own."""
    names = ("service", "reports", "prometheus", "alertmanager")
    ports = {f"{name}_port": find_free_port() for name in names}
    settings = Settings(home=tmp_path / "home", **ports)
    yield settings
    for home in (settings.home, find_folder(settings)):
        stop_stack(home, limit=5)


@pytest.mark.slow
@needs_programs
def test_up_has_live_alerts_shows_them_and_takes_them_down(settings: Settings) -> None:
    """One command: rules judged, somebody told, both in the summary, no second pair; no process stays."""
    homes = settings.home, find_folder(settings)
    with running_up(settings) as owner:
        assert wait_until(lambda: is_up(settings))
        watch = read_watch(settings)
        assert (watch.rules, watch.receivers) == (len(ALERTS), ("webhook",))
        told = json.loads(perennial(settings, "status", "--json").stdout)["services"]
        assert list(told) == ["service", *PAIR]
        assert [told[name]["answers"] for name in PAIR] == [True, True]
        second = perennial(settings, "monitoring", "up")
        assert (second.returncode, "one Prometheus per home" in second.stderr) == (1, True)
        assert count_left(*homes) == 3
        assert perennial(settings, "down").returncode == 0
        assert count_left(*homes) == 0
        said = owner.communicate(timeout=60)[0]
    assert f"prometheus healthy {settings.prometheus_url}" in said
    assert f"alertmanager healthy {settings.alertmanager_url}" in said
    assert "no alerts" not in said
    assert read_stack(find_folder(settings)).phase == "stopped"  # type: ignore[union-attr]
    assert not is_expected(settings)


@pytest.mark.slow
@needs_programs
def test_killing_up_leaves_neither_prometheus_nor_alertmanager(settings: Settings) -> None:
    """They are supervised as the others are: killed, they come back; after kill -9 of `up` they end."""
    homes = settings.home, find_folder(settings)
    with running_up(settings) as owner:
        assert wait_until(lambda: is_up(settings))
        os.kill(read_stack(homes[1]).service("prometheus").pid, signal.SIGKILL)  # type: ignore[union-attr,arg-type]
        assert wait_until(lambda: read_stack(homes[1]).service("prometheus").restarts == 1)  # type: ignore[union-attr]
        owner.kill()
        owner.wait()
        assert wait_until(lambda: count_left(*homes) == 0)
    assert is_expected(settings)  # what promotes now misses them


@pytest.mark.slow
@needs_programs
def test_alerts_that_run_already_are_shown_and_left_alone(settings: Settings) -> None:
    """Those of `perennial monitoring up` are not started twice, and stay when the stack goes."""
    with running_monitoring(settings) as alone:
        with running_watched(settings, [stand_in(settings)], say=pytest.fail) as stack:
            assert [one.name for one in stack.services] == ["service", *PAIR]
            assert [one.pid for one in stack.services[1:]] == [one.pid for one in alone.services]
        assert alone.read().running
        assert count_left(settings.home, find_folder(settings)) == 2


@pytest.mark.slow
@needs_programs
def test_down_leaves_alerts_alone_that_another_command_started(settings: Settings) -> None:
    """Whoever typed `perennial monitoring up` goes on being told."""
    with running_monitoring(settings) as alone, running_up(settings) as owner:
        assert wait_until(
            lambda: (stack := read_stack(settings.home)) is not None and stack.phase == "running"
        )
        assert perennial(settings, "down").returncode == 0
        assert owner.wait(timeout=60) == 0
        assert count_left(settings.home) == 0
        assert alone.read().phase == "running"


def test_without_the_programs_one_line_says_how_to_get_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack runs all the same, and nothing is left that a promotion would wait for."""
    monkeypatch.setattr("flows.local.prometheus.shutil.which", lambda *words, **more: None)
    said: list[str] = []
    with running_watched(settings, [stand_in(settings)], say=said.append) as stack:
        assert [one.name for one in stack.services] == ["service"]
        assert stack.read().phase == "running"
    [line] = said
    assert line.startswith("no alerts: ")
    assert "apt-get install prometheus prometheus-alertmanager" in line
    assert "\n" not in line
    assert read_stack(find_folder(settings)) is None


@needs_programs
def test_a_taken_port_costs_the_alerts_alone_and_is_named(settings: Settings) -> None:
    """Debian's own Prometheus may hold it: the line names the setting, and a promotion waits for nothing."""
    said: list[str] = []
    with ExitStack() as held:
        taken = held.enter_context(socket.socket())
        taken.bind(("127.0.0.1", settings.prometheus_port))
        taken.listen()
        stack = held.enter_context(running_watched(settings, [stand_in(settings)], say=said.append))
        assert stack.read().phase == "running"
    assert ["PERENNIAL_PROMETHEUS_PORT" in line for line in said] == [True]
    assert read_stack(find_folder(settings)) is None


def test_off_starts_none_and_says_nothing(settings: Settings) -> None:
    """Who does not want them is not told of them."""
    off = settings.model_copy(update={"monitoring": "off"})
    with running_watched(off, [stand_in(off)], say=pytest.fail) as stack:
        assert [one.name for one in stack.services] == ["service"]
    assert read_stack(find_folder(off)) is None
