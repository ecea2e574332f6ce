"""Evidently's report of each window: page, numbers, and run in a workspace. The only caller of Evidently.

Ids follow from the problem and the window, so that a report made again replaces the one before it.
"""

import math
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.settings import Settings
from flows.local.stack_services import WORKSPACE
from flows.policy.drift import DriftColumn, DriftPolicy
from flows.verdicts import WindowVerdict

REPORT_ROWS = 5_000  # a side: Evidently's time grows with the rows, its pictures do not improve
REPORT_SEED = 20130101
KEEP_DAYS = 400  # of logical time: a year of windows and the one that they are compared with
KEY = re.compile(r"\d{8}T\d{4}-(\d{8}T\d{4})-v.+")  # as flows/verdicts.py names a window's verdict


def report_window(
    verdict: WindowVerdict,
    problem: str,
    current: pl.DataFrame,
    reference: pl.DataFrame,
    columns: Sequence[DriftColumn],
    *,
    target: str,
    folder: Path,
) -> WindowVerdict:
    """Save the window's report in `folder` and in its workspace; with quality where rows carry labels."""
    started = time.perf_counter()
    snapshot = _draw(verdict, current, reference, columns, target)
    folder.mkdir(parents=True, exist_ok=True)
    for save, suffix in ((snapshot.save_json, "json"), (snapshot.save_html, "html")):
        part = folder / f".{verdict.key}.{suffix}"
        save(str(part))
        part.replace(folder / f"{verdict.key}.{suffix}")
    keep_run(folder / WORKSPACE, problem, verdict.key, snapshot)
    return replace(verdict, report=f"{verdict.key}.html", report_seconds=time.perf_counter() - started)


def keep_run(workspace: Path, problem: str, key: str, snapshot: Any) -> Path:
    """Keep a report as the one run of its window; return the run's file.

    Evidently's own writer writes it beside the workspace, and a rename puts it there: the UI reads every
    run when it starts and would not start over half of one.
    """
    from evidently.sdk.models import ProjectModel
    from evidently.ui.workspace import Workspace

    project, run = find_ids(problem, key)
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".evidently-", dir=workspace.parent) as scratch:
        aside, made = Workspace.create(scratch), Path(scratch) / str(project)
        about = "Each window's answers against what their model was built on."
        aside.add_project(ProjectModel(id=project, name=problem, description=about))
        aside.state.write_snapshot(project, run, snapshot.to_snapshot_model())
        file = workspace / str(project) / "snapshots" / f"{run}.json"
        # Where there is a project already, it keeps what people made of it: its name, its dashboard.
        if not (workspace / str(project) / "metadata.json").exists():
            shutil.rmtree(workspace / str(project), ignore_errors=True)
            made.rename(workspace / str(project))
        else:
            file.parent.mkdir(exist_ok=True)
            (made / "snapshots" / file.name).replace(file)
    return file


def find_ids(problem: str, key: str) -> tuple[uuid.UUID, uuid.UUID]:
    """Return the ids of the problem's project and of the window's run in it."""
    project = uuid.uuid5(uuid.NAMESPACE_URL, f"perennial/{problem}")
    return project, uuid.uuid5(project, key)


def find_report(settings: Settings, problem: str, key: str) -> str:
    """Return the address of a window's report: in the Evidently UI, or its page where there is no UI."""
    if not settings.evidently_url:
        return f"{settings.reports_url}/reports/{key}.html"
    project, run = find_ids(problem, key)
    return f"{settings.evidently_url}/projects/{project}/reports/{run}"


def drop_reports(folder: Path, problem: str, keep_days: int = KEEP_DAYS) -> list[str]:
    """Delete the reports of windows that ended long before the newest one; return their keys."""
    ends = {page.stem: _read_end(page.stem) for page in folder.glob("*.json") if KEY.fullmatch(page.stem)}
    if not ends:
        return []
    oldest = max(ends.values()) - timedelta(days=keep_days)
    dropped = sorted(key for key, end in ends.items() if end < oldest)
    for key in dropped:
        project, run = find_ids(problem, key)
        # The numbers last: by them a report that was dropped halfway is found again.
        (folder / WORKSPACE / str(project) / "snapshots" / f"{run}.json").unlink(missing_ok=True)
        (folder / f"{key}.html").unlink(missing_ok=True)
        (folder / f"{key}.json").unlink()
    return dropped


def state_sampling(current: int, reference: int) -> Mapping[str, str]:
    """Say by which rule rows were drawn for a report, and how far its figures may be off for it.

    A share's standard error is greatest at one half; drawn without replacement from N rows it shrinks by
    sqrt(1 - n/N). Two samples of one population differ: by PSI (k - 1)(1/n + 1/m) on average over k bins
    (Yurdakul 2018, "Statistical properties of the population stability index"), with a standard deviation
    of sqrt(2(k - 1))(1/n + 1/m). Evidently bins a number by Sturges' rule.
    """
    n, m = min(current, REPORT_ROWS), min(reference, REPORT_ROWS)
    bins = math.ceil(math.log2(n + m) + 1)
    unit = 1 / n + 1 / m
    chance, spread = (bins - 1) * unit, math.sqrt(2 * (bins - 1)) * unit
    rule = f"at most {REPORT_ROWS:,} rows a side, drawn at random without replacement, seed {REPORT_SEED}"
    return {
        "sampling": rule,
        "rows": f"{n} of {current} in the window, {m} of {reference} in the reference",
        "standard error of a share": f"at most {share_error(n, current):.4f} to the whole window's share",
        "PSI by chance": f"{chance:.4f}, standard deviation {spread:.4f}",
        "bins of a number": str(bins),
    }


def share_error(drawn: int, of: int) -> float:
    """Return the greatest standard error that a share has if `drawn` of `of` rows are looked at."""
    return math.sqrt(0.25 / drawn * (1 - drawn / of))


def _draw(
    verdict: WindowVerdict,
    current: pl.DataFrame,
    reference: pl.DataFrame,
    columns: Sequence[DriftColumn],
    target: str,
) -> Any:
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import ClassificationQuality

    watched = [*columns, DriftColumn("score", "number")]
    # A column without any value has no distribution to draw.
    drawn = [c for c in watched if current[c.name].count() and reference[c.name].count()]
    labelled = target in current.columns
    definition = DataDefinition(
        numerical_columns=[c.name for c in drawn if c.kind == "number"],
        categorical_columns=[c.name for c in drawn if c.kind != "number"],
        classification=[BinaryClassification(target=target, prediction_probas="score", pos_label=1)]
        if labelled
        else None,
    )
    names = [*(c.name for c in drawn), *([target] if labelled else [])]
    sides = [
        Dataset.from_pandas(_sample(frame.select(names), target), data_definition=definition)
        for frame in (current, reference)
    ]
    drifts = [ValueDrift(column=c.name, method="psi", threshold=DriftPolicy().large) for c in drawn]
    told = {"window": str(verdict.window), "model version": verdict.version}
    return Report(
        [*drifts, *([ClassificationQuality()] if labelled else [])],
        metadata={**told, **state_sampling(len(current), len(reference))},
        tags=[f"v{verdict.version}", *verdict.breaches],
    ).run(*sides, name=verdict.key, timestamp=verdict.asof)


def _sample(frame: pl.DataFrame, target: str) -> Any:
    rows = frame.sample(REPORT_ROWS, seed=REPORT_SEED) if len(frame) > REPORT_ROWS else frame
    if target in rows.columns:
        # Evidently compares the target with its positive label as integers, and takes no nulls there.
        rows = rows.filter(pl.col(target).is_not_null()).with_columns(pl.col(target).cast(pl.Int64))
    return rows.to_pandas()


def _read_end(key: str) -> datetime:
    found = KEY.fullmatch(key)
    assert found is not None
    return datetime.strptime(found[1], "%Y%m%dT%H%M").replace(tzinfo=UTC)
