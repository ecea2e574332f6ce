"""`perennial dead-letters`: requests that were refused, or answered on inputs the model does not know."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from feature_repo.settings import Settings
    from services.dead_letters import Check, Send
    from services.journal import Journal, KeptLetter

app = typer.Typer(
    no_args_is_help=True, help="Requests that were refused or flagged: list, count, sample, show, send again."
)
console = Console()
SHOWN = 60  # characters of a reason in a table
SECONDS = 30.0  # that the service gets for one request
FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Kind = Annotated[str, typer.Option(help="Only of this kind, e.g. malformed or unseen.")]
Since = Annotated[datetime | None, typer.Option(formats=FORMATS, help="Only since then, in UTC.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]


@app.command("list")
def list_letters(
    ctx: typer.Context,
    kind: Kind = "",
    since: Since = None,
    limit: Limit = 50,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those not sent again yet.")] = False,
    as_json: Json = False,
) -> None:
    """List the newest dead letters."""
    _print(_find(ctx.obj, kind=kind, since=_format(since), limit=limit, waiting=waiting), as_json)


@app.command()
def sample(
    ctx: typer.Context, kind: Kind = "", since: Since = None, limit: Limit = 10, as_json: Json = False
) -> None:
    """List some dead letters, picked at random."""
    _print(_find(ctx.obj, kind=kind, since=_format(since), limit=limit, sampled=True), as_json)


@app.command()
def count(ctx: typer.Context, as_json: Json = False) -> None:
    """Count the kept dead letters by day and kind."""
    names = ("day", "kind", "letters", "replayed")
    told = [dict(zip(names, row, strict=True)) for row in _open(ctx.obj).count_dead_letters()]
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        _draw(names, told)


@app.command()
def show(ctx: typer.Context, letter_id: Annotated[int, typer.Argument(help="The letter's id.")]) -> None:
    """Print one dead letter with its whole request, as JSON."""
    from feature_repo.errors import LetterRefused
    from services.dead_letters import find_path, is_cut

    found = _find(ctx.obj, ids=(letter_id,))
    if not found:
        raise LetterRefused(
            f"dead letter {letter_id}",
            got="no such letter",
            expected="the id of one that is kept",
            next_step="Run `perennial dead-letters list`.",
        )
    print(json.dumps({**_tell(found[0]), "path": find_path(found[0]), "cut": is_cut(found[0])}, indent=1))


@app.command()
def replay(
    ctx: typer.Context,
    letter_ids: Annotated[list[int] | None, typer.Argument(help="Ids of letters.")] = None,
    kind: Kind = "",
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Send requests to the running service again, after a fix. Exits 1 unless all were answered."""
    if not letter_ids and not kind:
        raise typer.BadParameter("name letters by id, or a --kind", param_hint="LETTER_IDS")
    from services.dead_letters import replay_letters

    settings: Settings = ctx.obj
    ids = letter_ids or [one.id for one in _find(settings, kind=kind, since=_format(since), waiting=True)]
    if not ids:
        console.print("no dead letter waits")
        return
    lock = settings.home / "journal" / "replay.lock"
    counts: dict[str, int] = {}
    done = True
    with _open(settings) as journal, reach_service(settings) as send:
        for told in replay_letters(journal, ids, lock, build_checks(), send):
            counts[told.status] = counts.get(told.status, 0) + 1
            done = done and told.done
            print(json.dumps(asdict(told)) if as_json else _line(told), flush=True)
    if not as_json:
        console.print(", ".join(f"{status}: {n:,}" for status, n in counts.items()), highlight=False)
    if not done:
        raise typer.Exit(1)


def clean(text: object) -> str:
    """Return text that a terminal shows and nothing else: no markup, no control characters."""
    return escape(_tame(str(text)))


def _tame(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _line(told: Any) -> str:
    words = [f"{told.letter_id}: {told.status}", *told.answered, f"({told.why})" if told.why else ""]
    return _tame(" ".join(word for word in words if word))


def _open(settings: "Settings") -> "Journal":
    from services.journal import Journal

    return Journal(settings.home / "journal" / "journal.db")


def _find(settings: "Settings", **wanted: Any) -> "list[KeptLetter]":
    from services.journal import LetterFilter

    return _open(settings).find_dead_letters(LetterFilter(**wanted))


def _format(since: datetime | None) -> str:
    from services.journal import format_instant

    return format_instant(since.replace(tzinfo=UTC)) if since else ""


def _tell(letter: "KeptLetter") -> dict[str, Any]:
    return {**asdict(letter), "answered": json.loads(letter.answered) if letter.answered else None}


def _print(letters: "Sequence[KeptLetter]", as_json: bool) -> None:
    if as_json:
        print(json.dumps([_tell(letter) for letter in letters], indent=1))
        return
    names = ("id", "received_at", "kind", "model_version", "reason", "replayed_at")
    _draw(names, [{**asdict(one), "reason": _shorten(one.reason)} for one in letters])


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _draw(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    if not rows:
        console.print("no dead letter to show")
        return
    drawn = Table()
    for name in names:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(clean("" if row[name] is None else row[name]) for name in names))
    console.print(drawn)


def build_checks() -> "Check":
    """Return what tells of a request whether the service of this code would refuse it."""
    from feature_repo.problem import PROBLEM
    from services.schemas import build_wire

    wire = build_wire(PROBLEM)

    def check(path: str, body: bytes) -> object:
        return (wire.feedbacks if path == "/feedback" else wire.requests).read(body)

    return check


@contextmanager
def reach_service(settings: "Settings") -> "Iterator[Send]":
    """Give a function that sends to the service of these settings."""
    import httpx

    from feature_repo.errors import StackError

    with httpx.Client(base_url=settings.service_url, timeout=SECONDS) as client:

        def send(path: str, body: bytes) -> tuple[int, bytes]:
            try:
                answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            except httpx.TransportError as error:
                raise StackError(
                    f"the prediction service at {settings.service_url}",
                    got=type(error).__name__,
                    expected="an answer",
                    next_step="Start it with `perennial up`, then replay again: what was answered is marked.",
                ) from error
            return answer.status_code, answer.content

        yield send
