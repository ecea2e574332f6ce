"""`perennial features`: where each feature comes from, who takes it, and how it does."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from feature_repo.errors import NotEnoughData

if TYPE_CHECKING:
    from feature_repo.contract import Problem
    from flows.feature_report import FeatureReport

console = Console()
SHOWN = ("feature", "type", "taken by", "importance", "null", "skew")


def features(
    ctx: typer.Context,
    table: Annotated[str, typer.Option(help="Only this feature table; `request` for the request's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    lock: Annotated[
        bool, typer.Option("--lock", help="Add the feature service's version to definitions.lock, and end.")
    ] = False,
) -> None:
    """Show each feature's source, models, importance, null share, age, skew and cost; name useless ones."""
    from flows.project import open_project

    project = open_project(ctx.obj)
    if lock:
        from feature_repo.lock import LOCK, write_lock

        added = write_lock(project.problem)
        what = "added to" if added else "stands unchanged in"
        console.print(f"{project.problem.feature_service} {what} {LOCK.name}", highlight=False)
        return
    from flows.progress import showing

    with showing("features", ctx.obj.home):
        from flows.feature_report import report_features

        _require_table(project.problem, table)
        found, uses = report_features(project)
    found = [feature for feature in found if table in {"", feature.table}]
    if as_json:
        told = [asdict(feature) for feature in found]
        print(
            json.dumps({"features": told, "aliases": dict(uses.aliases), "trouble": uses.trouble}, indent=1)
        )
        return
    _draw(found, known=uses.known)
    if uses.trouble:
        console.print(f"models as last known here: {uses.trouble}", highlight=False, soft_wrap=True)


def _require_table(problem: "Problem", name: str) -> None:
    names = [*(table.name for table in problem.feature_tables), "request"]
    if name and name not in names:
        raise NotEnoughData(
            f"feature table {name}",
            got="no table of that name",
            expected=f"one of {', '.join(names)}",
            next_step="Name one of these, or none to see all.",
        )


def _draw(found: Sequence["FeatureReport"], *, known: bool) -> None:
    width = max((len(one.name) for one in found), default=0)
    for table in dict.fromkeys(one.table for one in found):
        _draw_table([one for one in found if one.table == table], width)
    unused = [one.name for one in found if one.unused]
    dead = [f"{one.name}: {one.dead}" for one in found if one.dead]
    _say(f"unused: {(', '.join(unused) or 'none') if known else 'unknown, no model is known here'}")
    _say(f"dead: {'; '.join(dead) or 'none'}")


def _draw_table(found: Sequence["FeatureReport"], width: int) -> None:
    first = found[0]
    limit = first.fresh_for.removesuffix(", 0:00:00")
    state = [f"fresh for {limit}"] if first.table != "request" else [limit]
    state += [f"{first.age_hours:.1f} h old"] if first.age_hours is not None else []
    state += [f"{first.cost_ms:.2f} ms a tick"] if first.cost_ms is not None else []
    _say(f"\n{first.table}: {', '.join(state)}")
    reads = {
        raw: list(dict.fromkeys(column for one in found for column in one.columns.get(raw, ())))
        for raw in first.columns
    }
    for raw, columns in reads.items():
        _say(f"  reads {raw}: {', '.join(columns)}")
    drawn = Table(box=None, pad_edge=False)
    for number, title in enumerate(SHOWN):
        drawn.add_column(title, no_wrap=number != 2, min_width=width if number == 0 else None)
    for one in found:
        taken = f"{', '.join(one.aliases) or 'no live model'} ({len(one.versions)})"
        taken = "unknown" if one.unused is None else taken
        numbers = (_tell(one.importance, ".4f"), _tell(one.null_share, ".1%"), _tell(one.skew, ".2%"))
        drawn.add_row(one.name, one.type, taken, *numbers)
    console.print(drawn)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _tell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
