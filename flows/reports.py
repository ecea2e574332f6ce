"""The reports server: what runs wrote for people (validation pages, plots, drift reports), metrics, alerts.

It serves files of two folders under the home, on the stack's address. Where Alertmanager is given no address
of the user's own, it posts here: every alert then has a place where it is kept and seen.
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from feature_repo.settings import load_settings
from flows.alert_messages import keep_message, list_messages, read_messages
from flows.batch_metrics import BatchMetrics

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

RUNBOOKS = Path(__file__).resolve().parents[1] / "infra" / "runbooks"
FOLDERS = {"pages": "Validation pages and plots of the data's quality", "reports": "Drift reports"}
NEWEST = 50  # files listed of each folder
PAGE = """<!doctype html><meta charset="utf-8"><title>Perennial reports</title>
<style>body{{font:15px system-ui;margin:2rem;max-width:60rem}}li{{margin:.2rem 0}}</style>
<h1>Reports</h1>{body}<p><a href="/alerts">Alerts</a>, <a href="/metrics">metrics of data and model</a></p>"""


def build_app(home: Path, prefect_url: str = "") -> "Starlette":
    """Return the app over one home; the runs of its flows are asked of that Prefect server, if any."""
    import asyncio

    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def index(request: "Request") -> "Response":
        return HTMLResponse(PAGE.format(body="".join(_list(home, name) for name in FOLDERS)))

    async def metrics(request: "Request") -> "Response":
        text = await asyncio.to_thread(batch.render)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def show_alerts(request: "Request") -> "Response":
        return HTMLResponse(PAGE.format(body=list_messages(read_messages(home))))

    async def take_alerts(request: "Request") -> "Response":
        try:
            await asyncio.to_thread(keep_message, home, await request.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            told = f"body: got {error!r}, expected a message of Alertmanager."
            return PlainTextResponse(told, 422)
        return PlainTextResponse("kept", 201)

    batch = BatchMetrics(home, prefect_url)
    for name in FOLDERS:
        (home / name).mkdir(parents=True, exist_ok=True)
    files = [Mount(f"/{name}", StaticFiles(directory=home / name)) for name in FOLDERS]

    async def show_runbook(request: "Request") -> "Response":
        path = RUNBOOKS / f"{request.path_params['name']}.md"
        if path.parent != RUNBOOKS or not path.is_file():
            return PlainTextResponse("no such runbook", 404)
        return PlainTextResponse(path.read_text(encoding="utf-8"))

    pages = [
        Route("/", index),
        Route("/metrics", metrics),
        Route("/alerts", show_alerts),
        Route("/runbooks/{name}.md", show_runbook),
        Route("/alerts", take_alerts, methods=["POST"]),
    ]
    return Starlette(routes=[*pages, *files])


def _list(home: Path, name: str) -> str:
    shown = (".html", ".png")
    files = [p for p in (home / name).rglob("*") if p.suffix in shown and not p.name.startswith(".")]
    newest = sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)[:NEWEST]
    places = [path.relative_to(home).as_posix() for path in newest]
    items = "".join(f'<li><a href="/{quote(place)}">{html.escape(place)}</a>' for place in places)
    return f"<h2>{FOLDERS[name]}</h2><ul>{items or '<li>none yet'}</ul>"


def main() -> None:
    """Serve the home that the settings name."""
    import uvicorn

    settings = load_settings()
    app = build_app(settings.home, settings.prefect_url)
    uvicorn.run(app, host=settings.host, port=settings.reports_port, log_level="warning")


if __name__ == "__main__":
    main()
