"""A server that speaks what flows/monitors.py asks of Prefect, Prometheus and Alertmanager, with all well."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from flows.monitors import RULES, read_rule_names

RECEIVER = """
route: {receiver: people}
receivers:
  - name: people
    webhook_configs: [{url: "http://127.0.0.1:1/alerts"}]
"""


class FakeMonitoring:
    """What the three servers would answer; change an attribute, or set `down`, for something to be wrong."""

    def __init__(self, service_port: int, reports_port: int) -> None:
        schedule = {"active": True, "schedule": {"cron": "0 4 * * *"}}
        self.deployments: list[dict[str, Any]] = [
            {"name": "daily-loop", "paused": False, "schedules": [schedule]},
            {"name": "monitor", "paused": False, "schedules": []},
        ]
        self.blocks = {"custom-webhook/people": {"block_type": {"name": "Custom Webhook"}}}
        self.targets = [
            {
                "labels": {"job": job},
                "health": "up",
                "lastError": "",
                "scrapeUrl": f"http://127.0.0.1:{port}/metrics",
            }
            for job, port in (("service", service_port), ("reports", reports_port))
        ]
        names = sorted(read_rule_names(RULES))
        self.rules: list[dict[str, Any]] = [{"name": name, "health": "ok"} for name in names]
        self.alertmanagers = [{"url": "http://127.0.0.1/api/v2/alerts"}]
        self.config = RECEIVER
        self.alerts: dict[str, dict[str, Any]] = {}  # by incident, as an Alertmanager holds them: in memory
        self.posted: list[dict[str, Any]] = []
        self.started = datetime.now(UTC)
        self.down = False

    def restart(self) -> None:
        """Lose what an Alertmanager loses when it is killed and started."""
        self.alerts, self.started = {}, datetime.now(UTC)

    def list_alerts(self, incident: str = "") -> list[dict[str, Any]]:
        """Return what has not ended."""
        now = datetime.now(UTC)
        standing = [a for a in self.alerts.values() if datetime.fromisoformat(a["endsAt"]) > now]
        return [a for a in standing if incident in ("", a["labels"]["incident"])]

    def answer(self, path: str, body: Any, query: str = "") -> Any:
        """Return the answer to a request, or None where there is nothing."""
        if path.startswith("/api/block_types/slug/"):
            kind, name = path.split("/")[4], path.rsplit("/", maxsplit=1)[-1]
            return self.blocks.get(f"{kind}/{name}")
        if path == "/api/v2/alerts":
            if body is None:
                return self.list_alerts(parse_qs(query)["filter"][0].split('"')[1])
            self.posted += body
            self.alerts |= {alert["labels"]["incident"]: alert for alert in body}
            return {}
        wanted = body["deployments"]["name"]["any_"] if body else []
        routes: dict[str, Callable[[], Any]] = {
            "/api/deployments/filter": lambda: [d for d in self.deployments if d["name"] in wanted],
            "/api/v1/targets": lambda: {"data": {"activeTargets": self.targets}},
            "/api/v1/rules": lambda: {"data": {"groups": [{"name": "all", "rules": self.rules}]}},
            "/api/v1/alertmanagers": lambda: {"data": {"activeAlertmanagers": self.alertmanagers}},
            "/api/v2/status": lambda: {
                "config": {"original": self.config},
                "uptime": self.started.isoformat(),
            },
        }
        return routes[path]() if path in routes else None


@contextmanager
def serving(fake: FakeMonitoring) -> Iterator[int]:
    """Serve the fake's answers; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path, _, query = self.path.partition("?")
            said = None if fake.down else fake.answer(path, body, query)
            content = json.dumps(said).encode()
            self.send_response(503 if fake.down else 404 if said is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *given: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
