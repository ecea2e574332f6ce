"""The HTTP surface, as a plain ASGI app: everything it works with is handed to it."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from feature_repo.contract import Problem
from feature_repo.errors import JournalUnavailable
from services.answering import MAX_REASON, Answering, Models, Store
from services.decoding import BadRequest
from services.docs import PAGE
from services.engine import REFUSE, Engine, Overloaded
from services.intake import Intake
from services.journal import DeadLetter, Journal, format_instant
from services.metrics import LAG_SECONDS, Metrics
from services.openapi import describe
from services.routing import PIN, read_pin
from services.shadow import Shadow
from services.wire import Wire

JSON = (b"content-type", b"application/json")
Handler = Callable[[Request], Awaitable[Response]]
Hook = Callable[[], None]


class PredictionApp:
    """Decodes, answers, journals; the answer leaves when the journal has it."""

    def __init__(
        self,
        problem: Problem,
        store: Store,
        models: Models,
        journal: Journal,
        wire: Wire,
        metrics: Metrics,
        deadline: float,
    ) -> None:
        self.shadow = Shadow(journal, metrics)
        self._answering = Answering(problem, store, models, metrics, self.shadow)
        self.engine = Engine(self._answering, journal, deadline)
        self._models = models
        self._journal = journal
        self._wire = wire
        self._intake = Intake()
        self._metrics = metrics
        self._problem = problem
        self._answered = metrics.requests.labels("/predict", "200")
        self._served: Counter[str] = Counter()
        self._started = datetime.now(UTC)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer POST /predict. Without a framework around it: half the cost of a request would be its."""
        since = time.perf_counter()
        try:
            body = await self.predict(scope, receive)
        except (BadRequest, JournalUnavailable, Overloaded) as error:
            response = self._refuse("/predict", error)
            await response({"type": "http"}, receive, send)
            return
        except ClientDisconnect:
            return
        except Exception:
            self._metrics.requests.labels("/predict", "500").inc()
            raise
        self._answered.inc()
        self._metrics.seconds.observe(time.perf_counter() - since)
        size = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [JSON, size]})
        await send({"type": "http.response.body", "body": body})

    async def predict(self, scope: Scope, receive: Receive) -> bytes:
        """Return the answer to one item or a list of them, as JSON."""
        pin = read_pin(scope["headers"])
        items, single = await self._read("/predict", receive, self._wire.requests.read)
        rows = [self._wire.to_row(item) for item in items]
        if pin:
            rows = [{**row, PIN: pin} for row in rows]
        sent = [msgspec.json.encode(item) for item in items]
        made = await self.engine.ask(rows, sent)
        self._count(made)
        return msgspec.json.encode(made.bodies[0] if single else {"predictions": made.bodies})

    async def feedback(self, request: Request) -> Response:
        """Take one outcome or a list of them."""
        items, _ = await self._read("/feedback", request.receive, self._wire.feedbacks.read)
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

    async def metrics(self, request: Request) -> Response:
        """Tell Prometheus what was counted, by all workers."""
        text, kind = await asyncio.to_thread(self._metrics.render)
        return Response(text, media_type=kind)

    async def watch_lag(self) -> None:
        """Tell every second what waits: the worker that Prometheus happens to ask tells for all of them."""
        while True:
            self._metrics.note_lag(self.engine.waiting, *self._journal.lag)
            await asyncio.sleep(LAG_SECONDS)

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
            except (BadRequest, JournalUnavailable) as error:
                return self._refuse(route, error)
            except Exception:
                self._metrics.requests.labels(route, "500").inc()
                raise
            self._metrics.requests.labels(route, str(response.status_code)).inc()
            return response

        return guarded

    def _refuse(self, route: str, error: BadRequest | JournalUnavailable | Overloaded) -> Response:
        """Return the answer that an error stands for, counted."""
        if isinstance(error, JournalUnavailable):
            self._metrics.journal_failures.labels(route).inc()
            error = _postpone("journal", str(error.got), str(error.expected))
        elif isinstance(error, Overloaded):
            error = _postpone("queue", f"over {REFUSE:,} rows that wait", "fewer")
        self._metrics.requests.labels(route, str(error.status)).inc()
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return _json(error.to_body(), error.status, headers)

    async def _read(
        self, path: str, receive: Receive, read: Callable[[bytes], tuple[list[Any], bool]]
    ) -> Any:
        body = b""
        try:
            body = await self._intake.read(receive)
            return read(body)
        except BadRequest as error:
            if error.status not in {408, 503}:  # nothing is wrong with what was not read
                self._bury(path, error, body)
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


class App(Starlette):
    """The routes of the app, with a way of its own for the one that everybody takes."""

    prediction: PredictionApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's request."""
        if scope["type"] == "http" and scope["method"] == "POST" and _find_path(scope) == "/predict":
            scope["app"] = self
            await self.prediction.answer(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def build_app(
    problem: Problem,
    store: Store,
    models: Models,
    journal: Journal,
    wire: Wire,
    metrics: Metrics | None = None,
    on_start: Hook = lambda: None,
    on_stop: Hook = lambda: None,
    deadline: float = 2.0,
) -> App:
    """Return the app. `on_start` and `on_stop` run in a thread, around the app's life.

    deadline  seconds that the store or a model may take, before a request goes on without
    """
    told = metrics or Metrics()
    app = PredictionApp(problem, store, models, journal, wire, told, deadline)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        await asyncio.to_thread(on_start)
        told.note_start()
        journal.watch_commits(told.commits.observe)
        app.engine.start()
        watch = asyncio.create_task(app.watch_lag())
        yield
        watch.cancel()
        await app.engine.stop()
        await asyncio.to_thread(app.shadow.stop)
        await asyncio.to_thread(on_stop)

    named = {
        "/feedback": (app.feedback, "POST"),
        "/live": (app.live, "GET"),
        "/metrics": (app.metrics, "GET"),
        "/openapi.json": (app.openapi, "GET"),
        "/docs": (app.docs, "GET"),
        "/": (app.index, "GET"),
    }
    routes = [Route(path, app.guard(path, one), methods=[verb]) for path, (one, verb) in named.items()]
    verbs = {"/predict": "POST", **{path: verb for path, (_, verb) in named.items()}}
    lost = app.guard("other", _refuse_path(verbs))
    rest = Route("/{path:path}", lost)
    rest.methods = None  # any at all: Starlette's own refusal of a method names nothing
    served = App(routes=[*routes, rest], lifespan=lifespan)
    served.prediction = app
    return served


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


def _postpone(field: str, got: str, expected: str) -> BadRequest:
    return BadRequest(503, field, got=got, expected=expected, next_step="Try again in a second.")


def _find_path(scope: Scope) -> str:
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")
