"""Walks the rubric and the checklist, and shows what was found: `perennial doctor`."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.markup import escape

from feature_repo.settings import Settings
from flows.policy.readiness import HALF, WHOLE, Answer, Score, grade
from flows.progress import report
from flows.readiness import data, infrastructure, model, monitoring
from flows.readiness.checklist import CHECKLIST
from flows.readiness.lookups import Question, TestsPassed, take
from flows.readiness.sources import Sources

RUBRIC: dict[str, tuple[Question, ...]] = {
    "data": data.QUESTIONS,
    "model": model.QUESTIONS,
    "infrastructure": infrastructure.QUESTIONS,
    "monitoring": monitoring.QUESTIONS,
}
MARKS = {WHOLE: "[green]1[/]", HALF: "[yellow]½[/]"}


def open_sources(settings: Settings) -> Sources:
    """Return where evidence about one home is looked up."""
    from flows.project import open_project

    return Sources(open_project(settings))


def score_rubric(sources: Sources) -> Score:
    """Return the answers to the 28 tests, as they are now."""
    return Score(tuple(_answer(sources, RUBRIC)))


def walk_checklist(sources: Sources) -> tuple[Answer, ...]:
    """Return the answers to the production checklist: done or not."""
    return tuple(_answer(sources, CHECKLIST))


def list_tests() -> list[str]:
    """Return the tests that are asked for, as pytest takes them, without those that drive a whole stack."""
    asked = [one for part in (*RUBRIC.values(), *CHECKLIST.values()) for one in part]
    looks = [look for one in asked for look in (*one.automated, *one.documented)]
    names = {name for look in looks if isinstance(look, TestsPassed) for name in look.names}
    whole = {name for name in names if "::" not in name}
    return sorted(whole | {name for name in names if name.partition("::")[0] not in whole})


def _answer(sources: Sources, questions: dict[str, tuple[Question, ...]]) -> Iterator[Answer]:
    done, total = 0, sum(map(len, questions.values()))
    for section, asked in questions.items():
        for one in asked:
            report(done, total, section)
            done += 1
            automated = [take(look, sources) for look in one.automated]
            documented = [take(look, sources) for look in one.documented]
            yield grade(section, one.text, automated, documented)


def draw_answers(answers: tuple[Answer, ...], title: str) -> Iterator[str]:
    """Yield lines: points and question, under it each piece of evidence and what a whole point lacks.

    Lines and not a table: an address that is cut at the edge of a column cannot be opened.
    """
    yield f"\n[bold]{title}[/]"
    section = ""
    for answer in answers:
        if answer.section != section:
            section = answer.section
            yield f"  [bold]{section}[/]"
        yield f"{MARKS.get(answer.points, '[red]0[/]')} {escape(answer.question)}"
        for found in answer.evidence:
            yield f"    [dim]{escape(f'{found.what}: {found.where}')}[/]"
        if answer.points < WHOLE:
            for found in answer.missing:
                yield f"    [red]missing:[/] {escape(f'{found.what}. {found.next_step}')}"


def draw_score(score: Score) -> str:
    """Return the four sections and their least in one line."""
    told = ", ".join(f"{name} {points:g}" for name, points in score.sections.items())
    return f"ML Test Score: {score.least:g} of 7, the least of {told}"


def describe(score: Score, checklist: tuple[Answer, ...]) -> dict[str, Any]:
    """Return everything as plain values, for programs."""
    return {
        "score": score.least,
        "sections": score.sections,
        "rubric": [asdict(answer) for answer in score.answers],
        "checklist": [asdict(answer) for answer in checklist],
    }
