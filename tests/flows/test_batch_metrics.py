"""What the loop found reaches Prometheus: the newest verdict, runs of flows, and what could not be read."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.lake import Lake
from flows.alert_messages import keep_message, list_messages, read_messages
from flows.batch_metrics import BatchMetrics

START = datetime(2024, 1, 1, tzinfo=UTC)
ENDED = datetime(2024, 5, 1, 12, tzinfo=UTC)


def read(home: Path, prefect_url: str = "") -> dict[tuple[str, tuple[str, ...]], float]:
    """Return samples by name and values of labels."""
    text = BatchMetrics(home, prefect_url).render().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def record(home: Path, week: int, breaches: list[str], **more: Any) -> None:
    """Keep a verdict as the monitor does."""
    until = START + timedelta(days=7 * week)
    row = {
        "key": f"w{week}",
        "window_since": until - timedelta(days=7),
        "window_until": until,
        "asof": until + timedelta(days=2),
        "model_version": "3",
        "quality_state": "breach" if breaches else "ok",
        "coverage": 0.98,
        "flagged": 0.01,
        "rows": 400,
        "arrived": 0.9,
        "drifted_importance": 0.62,
        "score_psi": None,
        "auc": 0.71,
        "auc_low": 0.68,
        "auc_high": 0.74,
        "breaches": json.dumps(breaches),
        "columns": json.dumps([{"name": "x", "psi": 0.4}]),
        **more,
    }
    schema = {"score_psi": pl.Float64}
    Lake(home / "lake").replace_where(
        "verdicts", pl.DataFrame([row], schema_overrides=schema), "key", str(row["key"])
    )


def record_day(home: Path, day: int, breaches: list[str], **more: Any) -> None:
    """Keep the verdict on a day as the monitor does."""
    until = START + timedelta(days=day)
    window = {
        "key": f"d{day}",
        "window_since": until - timedelta(days=1),
        "window_until": until,
        "asof": until,
    }
    record(home, 0, breaches, **window, **more)


class _Prefect(http.server.BaseHTTPRequestHandler):
    """Answers the two questions as a Prefect server does."""

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/flows/filter":
            told: list[dict[str, Any]] = [{"id": "1", "name": "monitor"}]
        else:
            good = wanted["flow_runs"]["state"]["type"]["any_"] == ["COMPLETED"]
            told = [{"end_time": ENDED.isoformat()}] if good else []
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def prefect_url() -> Iterator[str]:
    """Return the address of a server that answers as Prefect does."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Prefect) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_newest_verdict_is_told(tmp_path: Path) -> None:
    """Of two windows the later one counts; signals that it does not breach are 0, not absent."""
    record(tmp_path, 1, ["quality"])
    record(tmp_path, 2, ["drift"])
    told = read(tmp_path)
    assert told["perennial_breach", ("drift", "week")] == 1
    assert told["perennial_breach", ("quality", "week")] == 0
    assert told["perennial_realised_quality", ("auc", "week")] == 0.71
    assert told["perennial_realised_quality_low", ("auc", "week")] == 0.68
    assert told["perennial_drift_importance_ratio", ("week",)] == 0.62
    assert told["perennial_drift_psi", ("x", "week")] == 0.4
    until = (START + timedelta(days=14)).timestamp()
    assert told["perennial_verdict_until_timestamp_seconds", ("week",)] == until


def test_days_hide_no_week_and_a_week_no_day(tmp_path: Path) -> None:
    """A day ended after the week and was judged before it: the week's breach is told all the same."""
    record(tmp_path, 2, ["quality"])
    record_day(tmp_path, 15, ["drift"], alarms='["inputs"]', quality_state="unknown", auc=None)
    told = read(tmp_path)
    assert told["perennial_breach", ("quality", "week")] == 1
    assert told["perennial_realised_quality", ("auc", "week")] == 0.71
    assert told["perennial_breach", ("drift", "week")] == 0
    assert told["perennial_breach", ("inputs", "day")] == 1
    assert ("perennial_realised_quality", ("auc", "day")) not in told
    ends = [told["perennial_verdict_until_timestamp_seconds", (kind,)] for kind in ["day", "week"]]
    assert ends == [(START + timedelta(days=n)).timestamp() for n in (15, 14)]


def test_what_a_verdict_cannot_tell_has_no_sample(tmp_path: Path) -> None:
    """An unknown quality is not 0: nothing would be as bad."""
    record(tmp_path, 1, [], auc=None)
    names = {name for name, _ in read(tmp_path)}
    assert "perennial_drift_score_psi" not in names
    assert "perennial_realised_quality" not in names


def test_an_estimate_is_told_where_verdicts_have_one(tmp_path: Path) -> None:
    """Its columns are those of the realised quality, with a prefix; a signal of its own is told too."""
    record(tmp_path, 1, [], alarms='["estimated quality"]', estimated_auc=0.7, estimated_auc_low=0.66)
    told = read(tmp_path)
    assert told["perennial_estimated_quality", ("auc", "week")] == 0.7
    assert told["perennial_estimated_quality_low", ("auc", "week")] == 0.66
    assert told["perennial_breach", ("estimated_quality", "week")] == 1


def test_a_home_without_verdicts_is_no_trouble(tmp_path: Path) -> None:
    """Before the first window there is nothing to tell, and nothing wrong."""
    told = read(tmp_path)
    assert told["perennial_batch_source_up", ("lake",)] == 1
    assert told["perennial_retrain_requests", ()] == 0


def test_a_lake_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The rest of the metrics is served all the same."""
    record(tmp_path, 1, [])
    for path in (tmp_path / "lake" / "verdicts").glob("**/*.parquet"):
        path.write_bytes(b"no parquet")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "data.prom").write_text("perennial_quarantine_rows 3\n")
    told = read(tmp_path)
    assert told["perennial_batch_source_up", ("lake",)] == 0
    assert told["perennial_quarantine_rows", ()] == 3


def test_the_last_good_run_of_each_flow_is_told(tmp_path: Path, prefect_url: str) -> None:
    """A flow that never failed has no last failure."""
    told = read(tmp_path, prefect_url)
    assert told["perennial_flow_last_success_timestamp_seconds", ("monitor",)] == ENDED.timestamp()
    assert ("perennial_flow_last_failure_timestamp_seconds", ("monitor",)) not in told
    assert told["perennial_batch_source_up", ("prefect",)] == 1


def test_a_prefect_server_that_is_away_is_told(tmp_path: Path) -> None:
    """Nobody listens at port 1."""
    assert read(tmp_path, "http://127.0.0.1:1")["perennial_batch_source_up", ("prefect",)] == 0


def test_alerts_are_kept_and_shown(tmp_path: Path) -> None:
    """Where Alertmanager has no other receiver its messages are read at the reports, escaped."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "CoverageLow", "severity": "page"},
        "annotations": {"summary": "only <b>3%</b>", "runbook_url": ""},
    }
    message = {"status": "firing", "groupLabels": {"incident": "coverage"}, "alerts": [alert]}
    keep_message(tmp_path, message)
    with (tmp_path / "alerts.jsonl").open("a") as file:
        file.write('{"cut sho')  # by a crash
    keep_message(tmp_path, message)
    kept = read_messages(tmp_path)
    assert [(one["incident"], one["alerts"][0]["alert"]) for one in kept] == [("coverage", "CoverageLow")] * 2
    assert "only &lt;b&gt;3%&lt;/b&gt;" in list_messages(kept)


def test_what_is_no_message_is_not_kept(tmp_path: Path) -> None:
    """A stray POST leaves no line."""
    with pytest.raises(KeyError):
        keep_message(tmp_path, {"status": "firing"})
    assert read_messages(tmp_path) == []


@pytest.mark.parametrize(
    "body",
    [
        {"status": "firing", "groupLabels": None, "alerts": []},
        {"status": "firing", "groupLabels": {}, "alerts": None},
        {
            "status": "firing",
            "groupLabels": {},
            "alerts": [{"labels": {"alertname": "A"}}],
        },
        {"status": "firing", "groupLabels": {}, "alerts": [None]},
        [],
        None,
    ],
)
def test_the_reports_server_refuses_what_is_no_message(tmp_path: Path, body: Any) -> None:
    """It says so with a 422, and keeps nothing."""
    from flows.reports import build_app

    async def post() -> int:
        transport = httpx.ASGITransport(app=build_app(tmp_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://reports") as client:
            return (await client.post("/alerts", json=body)).status_code

    assert (asyncio.run(post()), read_messages(tmp_path)) == (422, [])
