"""The reports server: what runs wrote for people (validation pages, plots, drift reports), and metrics.

It serves files of two folders under the home and nothing else, on the stack's address.
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from feature_repo.settings import load_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

FOLDERS = {"pages": "Validation pages and plots of the data's quality", "reports": "Drift reports"}
NEWEST = 50  # files listed of each folder
PAGE = """<!doctype html><meta charset="utf-8"><title>Perennial reports</title>
<style>body{{font:15px system-ui;margin:2rem;max-width:60rem}}li{{margin:.2rem 0}}</style>
<h1>Reports</h1>{body}<p><a href="/metrics">Metrics of the data</a></p>"""


def build_app(home: Path) -> "Starlette":
    """Return the app over one home."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def index(request: "Request") -> "Response":
        return HTMLResponse(PAGE.format(body="".join(_list(home, name) for name in FOLDERS)))

    async def metrics(request: "Request") -> "Response":
        texts = [path.read_text() for path in sorted((home / "metrics").glob("*.prom"))]
        return PlainTextResponse("".join(texts), media_type="text/plain; version=0.0.4")

    for name in FOLDERS:
        (home / name).mkdir(parents=True, exist_ok=True)
    files = [Mount(f"/{name}", StaticFiles(directory=home / name)) for name in FOLDERS]
    return Starlette(routes=[Route("/", index), Route("/metrics", metrics), *files])


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
    app = build_app(settings.home)
    uvicorn.run(app, host=settings.host, port=settings.reports_port, log_level="warning")


if __name__ == "__main__":
    main()
