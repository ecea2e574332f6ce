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

WEEK, DAY = timedelta(days=7), timedelta(days=1)
START = datetime(2013, 1, 1, tzinfo=UTC)
BREACHES: dict[str, list[str]] = {"d": ["drift"], "q": ["quality"], ".": [], "?": []}
INSTANT = pl.Datetime("us", "UTC")


def judge(lake: Lake, weeks: str, version: str = "1", since: int = 0) -> None:
    """Put verdicts into the lake, one week a letter: d(rift), q(uality), . well, ? could not tell."""
    for n, sign in enumerate(weeks, since):
        told = {
            "asof": START + (n + 2) * WEEK,
            "breaches": json.dumps(BREACHES[sign]),
            "reasons": json.dumps([f"week {n} looked like {sign}"]),
            "quality_state": "unknown" if sign == "?" else "ok",
        }
        _put(lake, key_of(n, version), version, START + n * WEEK, WEEK, told)


def judge_days(lake: Lake, days: str, version: str = "1", since: int = 0) -> None:
    """Put verdicts into the lake, one day a letter: d is odd, . well, ? could not tell.

    As the monitor makes them: an odd day names the breach that its drift would be of a week.
    """
    for n, sign in enumerate(days, since):
        state = {"d": "alarm", ".": "ok", "?": "unknown"}[sign]
        told = {
            "asof": START + (n + 1) * DAY,
            "breaches": json.dumps(["drift"] if sign == "d" else []),
            "reasons": json.dumps([f"day {n} looked like {sign}"]),
            "quality_state": "unknown",
            "alarms": json.dumps(["inputs"] if sign == "d" else []),
            "signals": json.dumps([{"name": "inputs", "state": state, "reason": f"inputs of day {n}"}]),
        }
        _put(lake, day_key_of(n, version), version, START + n * DAY, DAY, told)


def live(lake: Lake, weeks: str, days: str, version: str = "1", upto: int | None = None) -> None:
    """Put verdicts in as they come about: each day as it ends, each week two days after its end.

    days  one letter for each day of a week, the same in every week: or as many as there are days
    upto  days that have passed; by default all weeks are judged
    """
    passed = 7 * len(weeks) + 2 if upto is None else upto
    told = days if len(days) > 7 else days * (len(weeks) + 1)
    for day in range(passed):
        judge_days(lake, told[day], version, since=day)
        week, left = divmod(day + 1 - 2, 7)
        if week > 0 and not left and week <= len(weeks):
            judge(lake, weeks[week - 1], version, since=week - 1)


def _put(
    lake: Lake, key: str, version: str, since: datetime, length: timedelta, told: dict[str, Any]
) -> None:
    row = {
        "key": key,
        "model_version": version,
        "window_since": since,
        "window_until": since + length,
        "alarms": "[]",
        "signals": "[]",
        "report": f"{key}.html",
    } | told
    instants = dict.fromkeys(("window_since", "window_until", "asof"), INSTANT)
    lake.replace_where(TABLE, pl.DataFrame([row], schema_overrides=instants), "key", key)


def key_of(week: int, version: str = "1") -> str:
    """Return the key that the monitor gives a week's verdict."""
    since, until = START + week * WEEK, START + (week + 1) * WEEK
    return f"{since:%Y%m%dT%H%M}-{until:%Y%m%dT%H%M}-v{version}"


def day_key_of(day: int, version: str = "1") -> str:
    """Return the key that the monitor gives a day's verdict."""
    since, until = START + day * DAY, START + (day + 1) * DAY
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
