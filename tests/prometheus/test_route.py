"""An alert travels: real Prometheus, real Alertmanager, a real webhook. What is watched is a small server."""

import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.channels import CLEARED, OPENED, Message, send_to_alertmanager
from flows.local.prometheus import find_program, read_watch, require_monitoring, running_monitoring
from tests.ports import find_free_port
from tests.prometheus.receiver import Receiver, receiving

PACE = 1 / 30  # 5 minutes become 10 seconds
LIMIT = 90.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("CI") and not shutil.which("prometheus"),
        reason="Prometheus is not installed: apt-get install prometheus prometheus-alertmanager",
    ),
]


class Watched(http.server.ThreadingHTTPServer):
    """Tells metrics: a hundred answers at each look, all by the champion or half of them by the rule."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.well = True
        self.champion, self.rule = 0, 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def render(self) -> str:
        self.champion += 100 if self.well else 50
        self.rule += 0 if self.well else 50
        return (
            "# TYPE perennial_answers_total counter\n"
            f'perennial_answers_total{{served_by="champion",reason="ok"}} {self.champion}\n'
            f'perennial_answers_total{{served_by="rule",reason="features_unavailable"}} {self.rule}\n'
            # Its cause, told at the same time: it may not become a message of its own.
            "# TYPE perennial_store_failures_total counter\n"
            f"perennial_store_failures_total {self.rule}\n"
        )


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Watched

    def do_GET(self) -> None:
        body = self.server.render().encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@dataclass
class World:
    """What is watched, and who is told."""

    settings: Settings
    watched: Watched
    receiver: Receiver


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start everything on a home, with short intervals."""
    with ExitStack() as held:
        receiver, watched = held.enter_context(receiving()), held.enter_context(Watched())
        thread = threading.Thread(target=watched.serve_forever)
        thread.start()
        held.callback(thread.join)
        held.callback(watched.shutdown)
        settings = Settings(
            home=tmp_path_factory.mktemp("home"),
            service_port=watched.port,
            reports_port=_open_quiet(held),
            prometheus_port=find_free_port(),
            alertmanager_port=find_free_port(),
            alert_webhook=receiver.url,
        )
        held.enter_context(running_monitoring(settings, pace=PACE))
        yield World(settings, watched, receiver)


def _open_quiet(held: ExitStack) -> int:
    """Start a server in the place of the reports, which has nothing to tell."""

    class Quiet(Watched):
        def render(self) -> str:
            return ""

    server = held.enter_context(Quiet())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    held.callback(thread.join)
    held.callback(server.shutdown)
    return server.port


def test_one_incident_is_one_message_and_one_all_clear(world: World) -> None:
    """Half of the answers come from the rule, then none: two messages, and none about the cause."""
    world.watched.well = False
    raised = world.receiver.await_message("coverage", "firing", LIMIT)
    assert raised is not None
    assert raised.names == {"CoverageLow"}
    [alert] = raised.whole["alerts"]
    assert alert["labels"]["severity"] == "page"
    assert "of answers; 95% is the limit." in alert["annotations"]["summary"]
    runbooks = f"{world.settings.reports_url}/runbooks/"
    assert alert["annotations"]["runbook_url"] == f"{runbooks}coverage-low.md"
    world.watched.well = True
    cleared = world.receiver.await_message("coverage", "resolved", LIMIT)
    assert cleared is not None
    # Its cause, silent while it lasted, may end in the same breath, and is told of in the same message.
    ended = {("CoverageLow", "resolved"), ("StoreFailing", "resolved")}
    assert {("CoverageLow", "resolved")} <= set(cleared.alerts) <= ended
    assert [m.status for m in world.receiver.messages] == ["firing", "resolved"]


def test_status_tells_what_is_watched(world: World) -> None:
    """All targets answer, the rules are loaded, and somebody is told."""
    deadline = time.monotonic() + LIMIT
    while not (watch := read_watch(world.settings)).ok and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {target.job for target in watch.targets} == {"service", "reports", "prometheus", "alertmanager"}
    assert watch.rules > 25
    assert watch.receivers == ("webhook",)


def test_an_incident_that_is_posted_is_one_group_and_its_all_clear_the_same(world: World) -> None:
    """Two incidents in a row: each a message and an all-clear under its own id, with what was said of it."""
    told = len(world.receiver.messages)
    for number in (1, 2):
        for kind, status in ((OPENED, "firing"), (CLEARED, "resolved")):
            for _ in range(2):  # as after a kill: said again before it was written down
                send_to_alertmanager(world.settings.alertmanager_url, say(number, kind))
            message = world.receiver.await_message(f"toy/week-{number}", status, LIMIT)
            assert message is not None, (number, kind)
            assert message.alerts == (("PerennialIncident", status),)
            assert message.whole["groupLabels"] == {"incident": f"toy/week-{number}"}
            [alert] = message.whole["alerts"]
            assert alert["annotations"]["summary"] == f"incident {number} {kind}"
            assert alert["labels"]["severity"] == "ticket"
    mine = [(m.incident, m.status) for m in world.receiver.messages[told:]]
    assert mine == [(f"toy/week-{n}", status) for n in (1, 2) for status in ("firing", "resolved")]


def test_an_end_that_an_alertmanager_does_not_know_of_is_told_all_the_same(world: World) -> None:
    """Told of by one that was killed since, or over before it was told: raised, and ended by itself."""
    url, soon = world.settings.alertmanager_url, timedelta(seconds=5)  # five times as long as it waits
    told = len(world.receiver.messages)
    lost = replace(say(3, CLEARED), opened=datetime(2013, 1, 1, tzinfo=UTC))
    send_to_alertmanager(url, lost, soon)
    brief = replace(say(4, OPENED), over=True)
    for message in (brief, replace(brief, kind=CLEARED, opened=datetime.now(UTC))):
        send_to_alertmanager(url, message, soon)
    for number in (3, 4):
        for status in ("firing", "resolved"):
            assert world.receiver.await_message(f"toy/week-{number}", status, LIMIT), (number, status)
    send_to_alertmanager(url, replace(brief, kind=CLEARED, opened=datetime.now(UTC)), soon)
    mine = [(m.incident, m.status) for m in world.receiver.messages[told:]]
    wanted = {(f"toy/week-{n}", status) for n in (3, 4) for status in ("firing", "resolved")}
    assert (len(mine), set(mine)) == (4, wanted)


def say(number: int, kind: str) -> Message:
    """Return a message about an incident, as flows/notify.py makes them outside a run."""
    since = datetime(2013, 1, 1, tzinfo=UTC)
    return Message(f"toy/week-{number}", kind, "toy", f"incident {number} {kind}", "why", since, {})


def test_a_second_one_on_the_same_home_is_refused(world: World) -> None:
    """It would write over the configuration of the first."""
    with pytest.raises(StackError, match="one Prometheus per home"), running_monitoring(world.settings):
        pass


def test_without_the_programs_the_error_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next step is a command."""
    monkeypatch.setattr("flows.local.prometheus.shutil.which", lambda *words, **more: None)
    with pytest.raises(StackError, match="apt-get install prometheus prometheus-alertmanager"):
        find_program("prometheus")


def test_nothing_runs_is_said_so(tmp_path: Path) -> None:
    """Before `up` there is nothing to ask."""
    with pytest.raises(StackError, match="perennial monitoring up"):
        require_monitoring(Settings(home=tmp_path))
