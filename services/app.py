"""The HTTP surface, as a plain ASGI app: everything it works with is handed to it."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from feature_repo.contract import Problem
from feature_repo.errors import JournalUnavailable
from services.answering import MAX_REASON, Answering, Models, Store
from services.decoding import BadRequest
from services.docs import PAGE
from services.journal import DeadLetter, Journal, format_instant
from services.metrics import Metrics
from services.openapi import describe
from services.wire import Wire

MAX_BODY = 5 * 1024 * 1024
DRAIN = 64 * 1024 * 1024  # of a body that is too large, read on and dropped, so that the refusal gets through
Handler = Callable[[Request], Awaitable[Response]]
Hook = Callable[[], None]


class PredictionApp:
    """Decodes, answers, journals; the answer leaves when the journal has it."""

    def __init__(
        self, problem: Problem, store: Store, models: Models, journal: Journal, wire: Wire, metrics: Metrics
    ) -> None:
        self._answering = Answering(problem, store, models, metrics)
        self._models = models
        self._journal = journal
        self._wire = wire
        self._metrics = metrics
        self._problem = problem
        # One thread: scoring holds the interpreter anyway, and the store's connection stays in one place.
        self._pool = ThreadPoolExecutor(1, "answering")
        self._served: Counter[str] = Counter()
        self._started = datetime.now(UTC)

    async def predict(self, request: Request) -> Response:
        """Answer one item or a list of them."""
        since = time.perf_counter()
        items, single = await self._read(request, self._wire.requests.read)
        rows = [self._wire.to_row(item) for item in items]
        sent = [msgspec.json.encode(item) for item in items]
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._pool, self._answering.answer, rows, sent)
        await asyncio.wrap_future(self._journal.submit(made.predictions, made.dead_letters))
        self._count(made)
        self._metrics.seconds.observe(time.perf_counter() - since)
        return _json(made.bodies[0] if single else {"predictions": made.bodies})

    async def feedback(self, request: Request) -> Response:
        """Take one outcome or a list of them."""
        items, _ = await self._read(request, self._wire.feedbacks.read)
        outcomes = [self._wire.to_outcome(item) for item in items]
        ids = await asyncio.wrap_future(self._journal.submit_outcomes(outcomes))
        self._metrics.feedback.inc(len(ids))
        return _json({"accepted": len(ids), "outcome_ids": ids}, 202)

    async def live(self, request: Request) -> Response:
        """Tell what this worker serves."""
        status = {
            "problem": self._problem.name,
            "pid": os.getpid(),
            "started": self._started,
            **self._models.read_status(),
            "served": dict(self._served),
            "store": {"trouble": self._answering.store_trouble},
        }
        return _json(status)

    async def openapi(self, request: Request) -> Response:
        """Describe the service to machines."""
        return _json(describe(self._problem, self._wire))

    async def docs(self, request: Request) -> Response:
        """Describe the service to people, and let them try it."""
        return HTMLResponse(PAGE)

    async def index(self, request: Request) -> Response:
        """Send people to the page."""
        return RedirectResponse("/docs")

    def guard(self, route: str, handler: Handler) -> Handler:
        """Turn what a handler raises into the answer that it stands for, and count."""

        async def guarded(request: Request) -> Response:
            try:
                response = await handler(request)
            except BadRequest as error:
                response = _json(error.to_body(), error.status)
            except JournalUnavailable as error:
                self._metrics.journal_failures.labels(route).inc()
                step, expected = "Try again in a second.", str(error.expected)
                told = BadRequest(503, "journal", got=error.got, expected=expected, next_step=step)
                response = _json(told.to_body(), 503, {"Retry-After": "1"})
            self._metrics.requests.labels(route, str(response.status_code)).inc()
            return response

        return guarded

    def close(self) -> None:
        """End the answering thread."""
        self._pool.shutdown()

    async def _read(self, request: Request, read: Callable[[bytes], tuple[list[Any], bool]]) -> Any:
        body = b""
        try:
            body = await read_body(request)
            return read(body)
        except BadRequest as error:
            self._bury(request.url.path, error, body)
            raise

    def _bury(self, path: str, error: BadRequest, body: bytes) -> None:
        """Keep a bounded part of what was refused; a refusal does not wait for the disk."""
        kept = body[:MAX_REASON].decode("utf-8", "replace")
        now = format_instant(datetime.now(UTC))
        version = self._models.serving.versions[0]
        letter = DeadLetter("malformed", f"{path} {error.status} {error}"[:MAX_REASON], kept, version, now)
        done = self._journal.submit((), [letter])
        self._metrics.dead_letters.labels("malformed").inc()
        failures = self._metrics.journal_failures.labels("dead_letter")
        done.add_done_callback(lambda future: failures.inc() if future.exception() else None)

    def _count(self, made: Any) -> None:
        self._metrics.predictions.inc(len(made.predictions))
        self._served.update(prediction.served_by for prediction in made.predictions)
        for letter in made.dead_letters:
            self._metrics.dead_letters.labels(letter.kind).inc()


def build_app(
    problem: Problem,
    store: Store,
    models: Models,
    journal: Journal,
    wire: Wire,
    metrics: Metrics | None = None,
    on_start: Hook = lambda: None,
    on_stop: Hook = lambda: None,
) -> Starlette:
    """Return the app. `on_start` and `on_stop` run in a thread, around the app's life."""
    app = PredictionApp(problem, store, models, journal, wire, metrics or Metrics())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        await asyncio.to_thread(on_start)
        yield
        app.close()
        await asyncio.to_thread(on_stop)

    named = {
        "/predict": (app.predict, "POST"),
        "/feedback": (app.feedback, "POST"),
        "/live": (app.live, "GET"),
        "/openapi.json": (app.openapi, "GET"),
        "/docs": (app.docs, "GET"),
        "/": (app.index, "GET"),
    }
    routes = [Route(path, app.guard(path, one), methods=[verb]) for path, (one, verb) in named.items()]
    lost = app.guard("other", _refuse_path({path: verb for path, (_, verb) in named.items()}))
    rest = Route("/{path:path}", lost)
    rest.methods = None  # any at all: Starlette's own refusal of a method names nothing
    return Starlette(routes=[*routes, rest], lifespan=lifespan)


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Return the body. Raises BadRequest (413) if it is larger than `limit` bytes."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > DRAIN:
            break
    if size > limit:
        told = f"at most {limit:,} bytes"
        raise BadRequest(413, "body", got=f"{size:,} bytes", expected=told, next_step="Split the list.")
    return b"".join(parts)


def _refuse_path(known: Mapping[str, str]) -> Handler:
    async def refuse(request: Request) -> Response:
        path, verb = request.url.path, known.get(request.url.path)
        if verb:
            step = f"Send {verb} {path}."
            told = BadRequest(405, "method", got=request.method, expected=verb, next_step=step)
            return _json(told.to_body(), 405, {"Allow": verb})
        expected = f"one of {', '.join(known)}"
        told = BadRequest(404, "path", got=path[:200], expected=expected, next_step="Look at /docs.")
        return _json(told.to_body(), 404)

    return refuse


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")
