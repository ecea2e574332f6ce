"""`perennial features`: where each feature comes from, who takes it, and how it does."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from flows.feature_report import FeatureReport

console = Console()
SHOWN = ("feature", "table", "type", "taken by", "importance", "null", "age h", "skew", "ms a tick", "reads")


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
    from flows.feature_report import report_features

    found, uses = report_features(project)
    found = [feature for feature in found if table in {"", feature.table}]
    if as_json:
        told = [asdict(feature) for feature in found]
        print(
            json.dumps({"features": told, "aliases": dict(uses.aliases), "trouble": uses.trouble}, indent=1)
        )
        return
    _draw(found)
    if uses.trouble:
        console.print(f"models as last known here: {uses.trouble}", highlight=False, soft_wrap=True)


def _draw(found: Sequence["FeatureReport"]) -> None:
    drawn = Table(*SHOWN)
    for one in found:
        taken = ", ".join(one.aliases) or "no live model"
        reads = "; ".join(f"{raw}: {', '.join(columns)}" for raw, columns in one.columns.items())
        numbers = [
            _tell(one.importance, ".4f"),
            _tell(one.null_share, ".1%"),
            _tell(one.age_hours, ".1f"),
            _tell(one.skew, ".2%"),
            _tell(one.cost_ms, ".2f"),
        ]
        drawn.add_row(one.name, one.table, one.type, f"{taken} ({len(one.versions)})", *numbers, reads)
    console.print(drawn)
    unused = [one.name for one in found if one.unused]
    dead = [f"{one.name}: {one.dead}" for one in found if one.dead]
    console.print(f"unused: {', '.join(unused) or 'none'}", highlight=False, soft_wrap=True)
    console.print(f"dead: {'; '.join(dead) or 'none'}", highlight=False, soft_wrap=True)


def _tell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
