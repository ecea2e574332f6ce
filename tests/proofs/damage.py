"""Every kind of damage does what it should, and the whole clean year loses no valid row.

The clean year is the bundled one, taken in day by day as the loop does. What its rules keep back is named
row by row, with the reason why each is right to be.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Figure = dict[str, Any]
# What the rules rightly keep back on the clean year: table, place, hour -> why.
RIGHTLY = {
    ("weather", "EWR", "2013-02-12T08:00:00+00:00"): "wind of 1,048 mph: a broken sensor",
    ("weather", "JFK", "2013-05-09T02:00:00+00:00"): (
        "13.1 F in May, 44 F below the hour before, the hour after and both other airports"
    ),
}
# Batches that rightly stop: table, first local day of the batch -> why.
RIGHTLY_STOPPED = {
    ("schedule", "2013-12-31"): "the year's file has no timetable of 1 January 2014",
    ("weather", "2013-12-31"): "the year's file has no weather of 31 December",
}


def measure() -> Iterator[Figure]:
    """Yield the figures of damage and of the clean year, which run side by side."""
    from tests.damage.catalogue import KINDS
    from tests.damage.harness import build_base, run_all, tell

    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        year = pool.submit(take_in_year, Path(folder) / "year")
        base = build_base(Path(folder) / "base")
        wrong = []
        for outcome in run_all(KINDS, base, Path(folder) / "work"):
            tell(outcome)
            wrong += [] if outcome.ok else [f"{outcome.damage.name}: {'; '.join(outcome.problems)}"]
        yield {"name": "kinds of damage", "value": len(KINDS), "bar": ">= 40", "ok": len(KINDS) >= 40}
        yield {
            "name": "kinds of damage with another outcome than expected",
            "value": wrong,
            "bar": "none",
            "ok": not wrong,
        }
        yield from _judge_year(**year.result())


def take_in_year(home: Path, days: int = 365) -> dict[str, Any]:
    """Take in the bundled year day by day; return what was kept back, what stopped and what was warned of."""
    from feature_repo.settings import Settings
    from flows.ingest import ingest_period
    from flows.project import open_project
    from flows.quarantine import read_quarantine

    project = open_project(Settings(home=home, mlflow_port=1))
    told: dict[str, Any] = {"rows": 0, "kept": [], "stopped": [], "warned": []}
    for n in range(days):
        day = date(2013, 1, 1) + timedelta(days=n)
        for manifest in ingest_period(project, project.day(day)):
            what = {"table": manifest.table, "day": str(day)}
            told["rows"] += manifest.seen if manifest.status == "landed" else 0
            if manifest.status == "stopped":
                told["stopped"].append({**what, "rules": manifest.reasons})
            if manifest.warnings:
                told["warned"].append({**what, "rules": manifest.warnings})
    rows = read_quarantine(project.lake).select("table", "rules", "row").to_dicts()
    told["kept"] = [{**row, "row": json.loads(row["row"])} for row in rows]
    return told


def _judge_year(
    rows: int, kept: list[dict[str, Any]], stopped: list[dict[str, Any]], warned: list[dict[str, Any]]
) -> Iterator[Figure]:
    for told in warned:
        print(f"warned: {told['day']} {told['table']}: {told['rules']}", file=sys.stderr)
    for told in kept:
        row = told["row"]
        told["right"] = RIGHTLY.get((told["table"], row.get("origin"), row.get("observed_at")), "")
    for told in stopped:
        told["right"] = RIGHTLY_STOPPED.get((told["table"], told["day"]), "")
    yield {
        "name": "rows of the clean year that were judged",
        "value": rows,
        "bar": "> 1,000,000",
        "ok": rows > 1e6,
    }
    yield {
        "name": "rows of the clean year falsely kept back",
        "value": {"falsely": sum(not told["right"] for told in kept), "kept back": kept},
        "bar": 0,
        "ok": all(told["right"] for told in kept),
    }
    yield {
        "name": "batches of the clean year falsely stopped",
        "value": {"falsely": sum(not told["right"] for told in stopped), "stopped": stopped},
        "bar": 0,
        "ok": all(told["right"] for told in stopped),
    }
    yield {
        "name": "batches of the clean year with a warning, of 1,460",
        "value": len(warned),
        "bar": "< 60",
        "ok": len(warned) < 60,
    }


if __name__ == "__main__":
    for figure in measure():
        print(json.dumps(figure))
