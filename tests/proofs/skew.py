"""Skew: a month with a clock change answered hour by hour, every value made again; and skews injected.

November 2013 lands day by day. Each hour's features go online as they would have; then that hour's requests
are answered through the real online store and journalled. The probe compares all of it.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

Figure = dict[str, Any]
FIRST, ASKED, LAST = date(2013, 10, 28), date(2013, 11, 1), date(2013, 12, 1)  # clocks change on 3 November
AHEAD = (2, 7, 19)  # hours before its departure that each flight is asked for
VALUES = 2_000_000
NUDGED = 100
HOUR = timedelta(hours=1)


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory() as folder:
        project = replay_month(Path(folder) / "month")
        yield from _compare_month(project)
        yield from _nudge(project)
        yield from _inject(Path(folder) / "base")


def replay_month(home: Path) -> Any:
    """Land the month and answer every flight of it; return the project on the home."""
    from feature_repo.contract import Period
    from feature_repo.settings import Settings
    from flows.features import build_features, materialize_period
    from flows.ingest import ingest_period
    from flows.project import open_project
    from services.answering import Answering
    from services.metrics import Metrics
    from services.schemas import build_wire
    from tests.skew.harness import NoModels

    project = open_project(Settings(home=home, mlflow_port=1))
    for n in range((LAST - FIRST).days):
        ingest_period(project, project.day(FIRST + timedelta(days=n)))
    stretch = Period(project.day(FIRST).since, project.day(LAST).since)
    frames = build_features(project, stretch)
    month = Period(project.day(ASKED).since, stretch.until)
    asked = _list_requests(project, month)
    answering = Answering(project.problem, project.store, NoModels(), Metrics())
    wire = build_wire(project.problem)
    materialize_period(project, frames, Period(stretch.since, month.since))
    hour = month.since
    while hour < month.until:
        if bodies := asked.get(hour, []):
            rows = [wire.to_row(wire.requests.read(body)[0][0]) for body in bodies]
            project.journal.append(answering.answer(rows, bodies).predictions)
        materialize_period(project, frames, Period(hour, hour + HOUR))
        hour += HOUR
    return project


def _list_requests(project: Any, month: Any) -> dict[Any, list[bytes]]:
    """Return the bodies of requests by the hour in which they are asked."""
    import msgspec

    problem = project.problem
    flights = problem.build_requests({"schedule": project.lake.read("schedule")})
    names = ("carrier", "flight", "origin", "dest", "distance", "scheduled_departure")
    found: dict[Any, list[bytes]] = {}
    for row in flights.select(names).iter_rows(named=True):
        for hours in AHEAD:
            at = row["scheduled_departure"] - hours * HOUR
            if month.since <= at < month.until:
                body = msgspec.json.encode({**row, "requested_at": at})
                found.setdefault(at.replace(minute=0, second=0, microsecond=0), []).append(body)
    return found


def _compare_month(project: Any) -> Iterator[Figure]:
    from feature_repo.contract import Period
    from flows.skew import keep_report, probe_skew
    from services.schemas import build_wire

    month = Period(project.day(ASKED).since, project.day(LAST).since)
    began = time.perf_counter()
    report = probe_skew(project, build_wire(project.problem), month, at_most=1_000_000)
    taken = time.perf_counter() - began
    keep_report(project, report)
    verdict = report.verdict
    counts = {
        "answers": report.answers,
        "withheld": sum(one.withheld for one in verdict.features),
        "withheld that the lake has": sum(one.lacking for one in verdict.features),
        "seconds": round(taken, 1),
    }
    enough = verdict.compared >= VALUES and not report.unreadable
    name = "values of a replayed month with a clock change that were compared"
    yield {"name": name, "value": verdict.compared, "bar": f">= {VALUES}", "ok": enough, **counts}
    name = "of these, values that differ from the lake's join or from what raw rows give"
    yield {
        "name": name,
        "value": verdict.mismatched,
        "bar": 0,
        "ok": verdict.ok,
        "why": verdict.reasons[1:-1][:5],
    }
    name = "values withheld as missing or expired that the lake has for that instant"
    lacking = counts["withheld that the lake has"]
    yield {"name": name, "value": lacking, "bar": 0, "ok": lacking == 0}


def _nudge(project: Any) -> Iterator[Figure]:
    """Show that the comparison sees the last bit: one value of some answers is moved by it."""
    from flows.skew import compare_answers
    from services.schemas import build_wire

    answers = project.journal.sample_predictions(project.day(date(2013, 11, 3)), NUDGED)
    stored = [f.name for f in project.problem.features if f.source != "request"]
    nudged = []
    for number, one in enumerate(answers):
        told = json.loads(one.features)
        held = [name for name in stored if told[name] is not None]
        name = held[number % len(held)]
        moved = {**told, name: math.nextafter(told[name], math.inf)}
        nudged.append(replace(one, features=json.dumps(moved)))
    _, verdict = compare_answers(project, build_wire(project.problem), nudged)
    name = f"of {NUDGED} values moved by their last bit, those found"
    yield {"name": name, "value": verdict.mismatched, "bar": NUDGED, "ok": verdict.mismatched == NUDGED}


def _inject(home: Path) -> Iterator[Figure]:
    from feature_repo.problem import PROBLEM
    from flows.skew import compare_answers
    from services.schemas import build_wire
    from tests.skew.harness import build_base, judge
    from tests.skew.mutations import MUTATIONS

    base = build_base(home)
    told = {one.name: problems for one in MUTATIONS if (problems := judge(one, base))}
    found = len(MUTATIONS) - len(told)
    name = "kinds of injected skew found, on the right features and by their cause, with no other finding"
    bar = f"{len(MUTATIONS)}, of >= 18"
    yield {"name": name, "value": found, "bar": bar, "ok": not told and found >= 18, "short": told}
    _, verdict = compare_answers(base.project, build_wire(base.project.problem), base.answer())
    name = f"findings on the same answers with nothing injected, {verdict.compared:,} values"
    yield {"name": name, "value": verdict.mismatched, "bar": 0, "ok": verdict.ok}
    base = build_base(home.with_name(f"{home.name}-today"), PROBLEM)
    _, verdict = compare_answers(base.project, build_wire(PROBLEM), base.answer())
    name = f"findings on today's version of the features, {verdict.compared:,} values"
    yield {"name": name, "value": verdict.mismatched, "bar": 0, "ok": verdict.ok}


if __name__ == "__main__":
    for figure in measure():
        print(json.dumps(figure))
