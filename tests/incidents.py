"""Verdicts that make incidents, and a webhook that is told of them."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import polars as pl

from feature_repo.lake import Lake
from flows.verdicts import TABLE

WEEK = timedelta(days=7)
START = datetime(2013, 1, 1, tzinfo=UTC)
BREACHES = {"d": ["drift"], ".": [], "?": []}
INSTANT = pl.Datetime("us", "UTC")


def judge(lake: Lake, weeks: str, version: str = "1", since: int = 0) -> None:
    """Put verdicts into the lake, one week a letter: d(rift), . well, ? could not tell."""
    for n, sign in enumerate(weeks, since):
        row = {
            "key": key_of(n, version),
            "model_version": version,
            "window_until": START + (n + 1) * WEEK,
            "asof": START + (n + 2) * WEEK,
            "breaches": json.dumps(BREACHES[sign]),
            "reasons": json.dumps([f"week {n} looked like {sign}"]),
            "quality_state": "unknown" if sign == "?" else "ok",
            "report": f"{key_of(n, version)}.html",
        }
        frame = pl.DataFrame([row], schema_overrides={"window_until": INSTANT, "asof": INSTANT})
        lake.replace_where(TABLE, frame, "key", str(row["key"]))


def key_of(week: int, version: str = "1") -> str:
    """Return the key that the monitor gives a week's verdict."""
    since, until = START + week * WEEK, START + (week + 1) * WEEK
    return f"{since:%Y%m%dT%H%M}-{until:%Y%m%dT%H%M}-v{version}"


def save_block(name: str, url: str) -> str:
    """Save a webhook block in Prefect and return how the settings name it."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    told = {"subject": "{{subject}}", "body": "{{body}}"}
    CustomWebhookNotificationBlock(name=name, url=url, json_data=told).save(name, overwrite=True)
    return f"custom-webhook/{name}"


@contextmanager
def receiving(choose: Callable[[], int] = lambda: 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a webhook; give its address and the list of what it took. `choose` gives each answer's status."""
    came: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = choose()
            if status == 200:
                came.append(told)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", came
        finally:
            server.shutdown()
            thread.join()
