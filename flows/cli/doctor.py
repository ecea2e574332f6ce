"""`perennial doctor`: this machine, the production checklist, and the ML Test Score."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

console = Console()


def doctor(
    ctx: typer.Context,
    machine: Annotated[
        bool, typer.Option("--machine", help="Only check this machine and what runs on it.")
    ] = False,
    at_least: Annotated[
        float, typer.Option("--at-least", min=0, max=7, help="Exit 1 if the ML Test Score is below.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check this machine, then how ready all of it is for production, by evidence that is looked up now.

    The score is that of the ML Test Score rubric (Breck et al., 2017): 28 tests, half a point for what was
    done by hand and written down, one for what runs by itself; the least of its four sections counts.
    Exits 1 if something on this machine is bad, or the score is below --at-least.
    """
    from flows.doctor import examine
    from flows.terminal import draw_checks

    checks = list(examine(ctx.obj))
    good = all(check.good for check in checks)
    if not as_json:
        console.print(draw_checks(checks))
    told = {"machine": [asdict(check) for check in checks]}
    if not machine:
        from flows.progress import showing

        with showing("doctor", ctx.obj.home):
            from flows.readiness import walk

            sources = walk.open_sources(ctx.obj)
            score, checklist = walk.score_rubric(sources), walk.walk_checklist(sources)
        good = good and score.least >= at_least
        told |= walk.describe(score, checklist)
        if not as_json:
            for answers, title in ((checklist, "Production checklist"), (score.answers, "ML Test Score")):
                for line in walk.draw_answers(answers, title):
                    console.print(line, highlight=False, soft_wrap=True)
            console.print(walk.draw_score(score), highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(told, indent=1))
    if not good:
        raise typer.Exit(1)
