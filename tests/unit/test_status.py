"""Status tells what serves, how fresh it is, what was judged, fires and waits, and where it has that from."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console, Group

from feature_repo.settings import Settings
from flows.cli import status as cli_status
from flows.local.stack import ServiceStatus, Stack
from flows.releasing.release_state import ReleaseState
from flows.status import (
    OURS,
    Serving,
    Status,
    count_queues,
    describe,
    list_ages,
    list_verdicts,
    read_alerts,
    read_samples,
    read_serving,
    read_status,
)
from services.journal import DeadLetter, Journal

METRICS = b"""
perennial_data_until_timestamp_seconds{table="weather"} 36000.0
perennial_data_until_timestamp_seconds{table="arrivals"} 28800.0
perennial_features_until_timestamp_seconds{table="airport_daily"} 0.0
perennial_verdict_info{window="week",version="2",quality_state="breach"} 1.0
perennial_verdict_until_timestamp_seconds{window="week"} 86400.0
perennial_breach{window="week",signal="quality"} 1.0
perennial_breach{window="week",signal="drift"} 0.0
"""
SERVICE = b"perennial_waiting_rows 3.0\nperennial_journal_waiting_rows 4.0\n"
ALERTS = {
    "data": {
        "alerts": [
            {
                "labels": {"alertname": "CoverageLow", "severity": "page"},
                "annotations": {"summary": "few answers"},
                "state": "firing",
                "activeAt": "2013-03-01T00:00:00.5Z",
            },
            {"labels": {"alertname": "DataOdd"}, "annotations": {}, "state": "pending", "activeAt": ""},
        ]
    }
}


PAGES: dict[str, bytes] = {
    "/metrics": SERVICE,
    "/api/v1/alerts": json.dumps(ALERTS).encode(),
    "/api/v1/rules?type=alert": json.dumps({"data": {"groups": [{"rules": [{"name": OURS}]}]}}).encode(),
}


@pytest.fixture
def url() -> Iterator[int]:
    """Serve what the service, the reports and Prometheus would, all at one port."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in PAGES else 404)
            self.end_headers()
            self.wfile.write(PAGES.get(self.path, b""))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_tables_are_held_against_the_newest_data() -> None:
    """Time is logical: what is behind is behind what has landed, not behind the clock on the wall."""
    told = [(age.table, age.kind, age.behind_hours) for age in list_ages(read_samples(METRICS))]
    assert told == [("arrivals", "data", 2.0), ("weather", "data", 0.0), ("airport_daily", "features", 10.0)]


def test_a_verdict_names_what_was_breached_and_nothing_else() -> None:
    """A signal that is told and not breached is left out."""
    (verdict,) = list_verdicts(read_samples(METRICS))
    assert (verdict.window, verdict.version, verdict.quality) == ("week", "2", "breach")
    assert verdict.breaches == ("quality",)
    assert verdict.until == "1970-01-02 00:00"


def test_without_metrics_nothing_is_made_up() -> None:
    """A page that is not there is no fresh table and no verdict."""
    assert list_ages(read_samples(None)) == ()
    assert list_verdicts(read_samples(None)) == ()


def test_only_alerts_that_fire_are_told(tmp_path: Path, url: int) -> None:
    """One that is about to fire does not fire yet; without a Prometheus nothing is known."""
    alerts = read_alerts(Settings(home=tmp_path, prometheus_port=url))
    assert alerts is not None
    assert [(one.name, one.severity, one.what) for one in alerts] == [("CoverageLow", "page", "few answers")]
    assert read_alerts(Settings(home=tmp_path, prometheus_port=1)) is None


def test_another_prometheus_on_our_port_says_nothing_of_us(
    tmp_path: Path, url: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian starts one by itself: that nothing fires there is no good news."""
    monkeypatch.setitem(PAGES, "/api/v1/rules?type=alert", b'{"data": {"groups": []}}')
    assert read_alerts(Settings(home=tmp_path, prometheus_port=url)) is None


def test_what_waits_is_counted_where_it_waits(tmp_path: Path, url: int) -> None:
    """Rows in the service by its metrics, dead letters by the journal, less those that were sent again."""
    with Journal(tmp_path / "journal" / "journal.db") as journal:
        letters = [
            DeadLetter(f"2013-01-0{n}T00:00:00+00:00", "missing", "/predict", "{}", "") for n in (1, 2)
        ]
        journal.append([], letters)
        journal.mark_replayed(1, "[]")
    told = count_queues(Settings(home=tmp_path, service_port=url))
    assert told["waiting for an answer"] == 3
    assert told["waiting for the journal's disk"] == 4
    assert told["dead letters that wait"] == 1


LIVE = {"champion": "3", "previous": "2", "challenger": None, "since": "2013-03-01T00:00:00", "reason": "ok"}


def test_why_a_version_serves_is_what_the_record_of_moves_says(tmp_path: Path) -> None:
    """Who moved the alias, how and why; a record of another version says nothing of this one."""
    settings, state = Settings(home=tmp_path), ReleaseState(tmp_path)
    assert read_serving(settings, LIVE).why == "the alias champion names it"
    told = {"who": "ann", "how": "by hand", "reason": "it ranks better", "rollout": None}
    state.finish(state.begin("champion", 2, 3, **told), 0.5)
    assert "it ranks better (by hand, by ann" in read_serving(settings, LIVE).why
    assert read_serving(settings, {**LIVE, "champion": "4"}).why == "the alias champion names it"


def test_a_service_without_a_model_says_so(tmp_path: Path) -> None:
    """The reason of the service stands where no version does."""
    live = {**LIVE, "champion": None, "reason": "no_champion"}
    assert read_serving(Settings(home=tmp_path), live) == Serving(
        None, "2", None, LIVE["since"], "no_champion"
    )


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """A status of an empty home leaves it empty, and says that nothing runs."""
    told = read_status(Settings(home=tmp_path / "home"))
    assert not told.running
    assert not told.good
    assert list(tmp_path.iterdir()) == []


def test_the_view_shows_every_part(tmp_path: Path) -> None:
    """A person sees what serves and why, ages, verdicts, alerts and queues; a program gets the same."""
    one = ServiceStatus("service", "healthy", 1, "http://here", "", 0, tmp_path / "service.log")
    stack = Stack(tmp_path, "id", "running", 1, 0.0, (one,))
    data, serving = read_samples(METRICS), Serving("3", "2", None, "2013-03-01T00:00:00", "it [ranks] better")
    told = Status(
        str(tmp_path), stack, {"service": True}, LIVE, serving,
        list_ages(data), list_verdicts(data), None, {"dead letters that wait": 7},
    )  # fmt: skip
    page = io.StringIO()
    Console(file=page, width=120).print(Group(*cli_status.draw(told)))
    for words in (
        "version 3",
        "previous 2",
        "it [ranks] better",
        "arrivals",
        "2 h behind",
        "breached: quality",
    ):
        assert words in page.getvalue()
    assert "7 dead letters that wait" in page.getvalue()
    assert "no Prometheus answers" in page.getvalue()
    assert told.good
    assert json.loads(json.dumps(describe(told)))["verdicts"][0]["breaches"] == ["quality"]
