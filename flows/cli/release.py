"""Releases from the terminal: promote, roll back, challenge, look, propose, approve, and what served when.

Promoting and rolling back need the registry alone: they work while the rest of the stack is down.
"""

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from feature_repo.settings import Settings

if TYPE_CHECKING:
    from flows.project import Project

console = Console()
Version = Annotated[int, typer.Argument(min=1, help="The model version, as MLflow numbers it.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept with the record.")]
Stages = Annotated[
    Literal["shadow", "canary"] | None,
    typer.Option(help="Scored and not heard, or heard by a share. [default: as it is, else shadow]"),
]


def add_commands(app: typer.Typer) -> None:
    """Put the commands on the app."""
    for command in (promote, rollback, challenge, rollout, propose, approve, history):
        app.command()(command)


def promote(ctx: typer.Context, version: Version, reason: Reason = "by hand") -> None:
    """Make a model version the champion; the service follows within a second or two."""
    from flows.releasing.release import promote_version

    _tell(promote_version(_open(ctx.obj), version, reason, by_hand=True))


def rollback(ctx: typer.Context, reason: Reason = "by hand") -> None:
    """Make the previous model version the champion again; needs nothing but MLflow."""
    from flows.releasing.release import roll_back

    _tell(roll_back(_open(ctx.obj), reason))


def challenge(
    ctx: typer.Context,
    version: Version,
    reason: Reason = "by hand",
    stage: Stages = None,
    share: Annotated[
        float | None, typer.Option(min=0.001, max=0.5, help="Of the traffic, in a canary.")
    ] = None,
    bake: Annotated[
        float | None, typer.Option(min=0.01, help="Days to watch it once it is the champion.")
    ] = None,
) -> None:
    """Set a version beside the champion, or change its terms: what is not named stays as it is."""
    from flows.releasing.rollout import challenge as begin

    found = begin(_open(ctx.obj), version, reason, stage=stage, share=share, bake=bake)
    terms = found.terms
    share_told = f" of {terms['share']:.0%}" if terms["stage"] == "canary" else ""
    _say(f"version {version} stands beside version {found.baseline} in {terms['stage']}{share_told}")


def rollout(
    ctx: typer.Context,
    act: Annotated[
        bool, typer.Option("--act", help="Do what the look says, as the daily loop would.")
    ] = False,
) -> None:
    """Look at the release under way: what is known, what follows, and why."""
    from flows.ingest import landed_until
    from flows.releasing.look import judge_rollout, look

    project = _open(ctx.obj)
    until = landed_until(project)
    found = look(project, until) if act else None
    known = found.rollout if found else project.releases.current()
    if known is None:
        _say("no release is under way; `perennial history` shows what was")
        return
    action, reasons = (found.action, found.reasons) if found else judge_rollout(project, known, until)
    _say(f"version {known.version}, {known.state} since {known.since[:19]}, against version {known.baseline}")
    _say(f"{'done' if act else 'it says'}: {action}")
    for reason in (*known.reasons, *reasons):
        _say(f"- {reason}")


def propose(ctx: typer.Context, version: Version, reason: Reason = "by hand", stage: Stages = None) -> None:
    """Ask a person to approve a version: a run that waits in the Prefect UI, and for `perennial approve`."""
    from flows.local.stack import require_stack

    require_stack(ctx.obj)
    with _ask_prefect(ctx.obj) as client:
        found = client.get("/deployments/name/propose/propose").raise_for_status().json()
        parameters = {"version": version, "reason": reason, **({"stage": stage} if stage else {})}
        run = client.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
        told = run.raise_for_status().json()
    _say(f"proposed as {told['name']}: perennial approve {told['id']} --version {version}")


def approve(
    ctx: typer.Context,
    proposal: Annotated[str, typer.Argument(help="Id of the proposal; without one: list them.")] = "",
    version: Annotated[int | None, typer.Option(min=1, help="The version that you mean.")] = None,
    reason: Reason = "",
    no: Annotated[bool, typer.Option("--no", help="Turn it down.")] = False,
) -> None:
    """Answer a proposal; returns once the waiting run has heard it. Both id and version must be right."""
    from flows.local.stack import require_stack

    require_stack(ctx.obj)
    if proposal and not version:
        raise typer.BadParameter("name the version that you mean", param_hint="--version")
    os.environ["PREFECT_API_URL"] = f"{ctx.obj.prefect_url}/api"
    from flows.releasing.proposal import Decision, answer_proposal, find_proposals
    from flows.releasing.release import name_caller

    with _ask_prefect(ctx.obj) as client:
        if not proposal:
            for one in find_proposals(client):
                _say(f"{one['id']}  version {one['version']}: {one.get('reason', '')}")
            return
        decision = Decision(version=version, approve=not no, who=name_caller(), reason=reason)
        name = answer_proposal(client, proposal, decision)
    _say(f"{name} heard it: version {version} is {'turned down' if no else 'approved'}")


def history(
    ctx: typer.Context,
    at: Annotated[
        str, typer.Option(help="An instant, ISO 8601, of this machine's clock in UTC: what served then.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show who moved what when, from, to, why and for how long; or what served at any past instant."""
    from flows.releasing.served_history import find_served, list_spells

    project = _open(ctx.obj, reconcile=True)
    moves = project.releases.moves()
    if at:
        served = find_served(moves, _read_instant(at))
        if as_json:
            print(json.dumps(served))
        else:
            for alias, version in served.items():
                _say(f"{alias}: {f'version {version}' if version else 'none'}")
        return
    spells = list_spells(moves, datetime.now(UTC))
    if as_json:
        print(json.dumps(spells, indent=1))
        return
    console.print(_draw(spells) if spells else "nothing was moved yet")


def _draw(spells: list[dict[str, Any]]) -> Table:
    names = ("at", "alias", "from", "to", "who", "how", "why", "took", "stood for")
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for spell in spells:
        # Reasons are anybody's text: never markup.
        table.add_row(*(Text(str(spell[name])) for name in names))
    return table


def _open(settings: Settings, *, reconcile: bool = False) -> "Project":
    from flows.local.stack_services import build_environment
    from flows.project import open_project
    from flows.retention import check_answers

    # Nobody at a terminal waits for an MLflow that is down as long as a nightly run does.
    quick = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    os.environ.update({**quick, **build_environment(settings)})
    project = open_project(settings)
    if reconcile:
        _reconcile_if_there(project)
    else:
        check_answers(settings.mlflow_url)
    return project


def _reconcile_if_there(project: "Project") -> None:
    from feature_repo.errors import PerennialError
    from flows.releasing.release import reconcile_previous
    from flows.retention import check_answers

    try:
        check_answers(project.settings.mlflow_url)
        reconcile_previous(project)
    except PerennialError as error:
        _say(f"MLflow does not answer: what moved since is not known ({error.got})", error=True)


def _ask_prefect(settings: Settings) -> Any:
    import httpx

    return httpx.Client(base_url=f"{settings.prefect_url}/api", timeout=30)


def _read_instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant, say 2026-01-31T12:00", param_hint="--at") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _tell(move: Any) -> None:
    _say(f"champion: version {move.before} -> version {move.after} ({move.reason})")


def _say(line: str, *, error: bool = False) -> None:
    to = Console(stderr=True) if error else console
    to.print(line, markup=False, highlight=False, soft_wrap=True)
