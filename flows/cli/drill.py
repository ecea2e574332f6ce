"""`perennial drill`: each way in which a model dies, injected, noticed and recovered from, on real data."""

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from feature_repo.settings import Settings

console = Console()
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Only this mode: drift, silent, skew, feedback or release. May be repeated."),
]


def drill(
    ctx: typer.Context,
    only: Only = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 2013,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the drill's own home, to look into.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Inject drift, silent failure, skew, lost feedback and a bad release, and see each one noticed and over.

    It runs on a stack of its own, beside whatever else runs, and leaves nothing behind but its report.
    Exits 0 only if every mode was noticed and recovered from, with no request failed.
    """
    from flows.drill.incident import MODES

    if unknown := sorted({*(only or ())} - {*MODES}):
        raise typer.BadParameter(f"{', '.join(unknown)}; there are {', '.join(MODES)}", param_hint="--only")
    settings: Settings = ctx.obj
    raise typer.Exit(_run(settings, only or [], seed, keep=keep, as_json=as_json))


def _run(settings: "Settings", only: list[str], seed: int, *, keep: bool, as_json: bool) -> int:
    from flows.quiet import QUIET

    os.environ.update(QUIET)  # before Prefect is imported, which reads it then
    for name in ("great_expectations", "evidently"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from flows.drill.report import write_report
    from flows.drill.run import describe, pass_or_fail, run_drill, write_record
    from flows.drill.table import draw_table

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    incidents = run_drill(settings, only, say, seed=seed, keep=keep)
    write_record(settings, incidents)
    report = write_report(settings, incidents)
    code, told = pass_or_fail(incidents)
    if as_json:
        print(json.dumps({**describe(incidents), "report": str(report)}, indent=1))
        return code
    console.print(draw_table(incidents))
    for line in (*told, f"report: {report}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return code
