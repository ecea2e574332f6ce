"""Lineage: what each stage tells of what it read and wrote, as OpenLineage events.

Events go to `lineage/events.jsonl` under the home, one JSON a line, and nowhere else unless OpenLineage's
own configuration (OPENLINEAGE_URL, openlineage.yml, ...) names a place.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from feature_repo.contract import FeatureTable, Period
from feature_repo.lake import Snapshot
from flows.label import TABLE as LABELS
from flows.lineage_events import PRODUCER, Dataset, Emitter, Run, build_event, connect
from flows.manifests import LANDED, STOPPED, Manifest
from flows.project import Project
from flows.quarantine import QUARANTINE
from flows.verdicts import TABLE as VERDICTS

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

STAMP = "event_timestamp"


def emit_ingest(project: Project, manifests: Sequence[Manifest]) -> None:
    """Tell of batches that were just taken in: complete if they landed, failed if they were stopped."""
    for manifest in manifests:
        if manifest.status in {LANDED, STOPPED}:
            _tell(project, partial(_describe_batch, project, manifest), manifest.reasons)


def emit_features(project: Project, period: Period, tables: Sequence[FeatureTable] | None = None) -> None:
    """Tell of feature tables, by default all, that were just computed for a period."""
    for table in tables or project.problem.feature_tables:
        _tell(project, partial(_describe_features, project, table, period))


def emit_label(project: Project, period: Period) -> None:
    """Tell of labels joined for a period."""
    _tell(project, partial(_describe_labels, project, period))


def emit_monitor(project: Project, version: int, windows: Sequence[Period]) -> None:
    """Tell of windows in which a model version was judged."""
    for window in windows:
        _tell(project, partial(_describe_verdict, project, version, window))


@contextmanager
def telling_training(project: Project, snapshot: Snapshot, sha256: str, reason: str) -> Iterator[Run]:
    """Tell of a training around it; the block adds the model version that came of it."""
    inputs = [read_table(project, table, version) for table, version in snapshot.versions.items()]
    facts = {"snapshot": snapshot.id, "trainingSetSha256": sha256, "reason": reason}
    run = Run("train", str(uuid.uuid4()), inputs=inputs, facts=facts)
    with telling(project, run):
        yield run


@contextmanager
def telling(project: Project, run: Run) -> Iterator[Run]:
    """Tell that a run begins, and then that it is complete, or failed by what the block raises."""
    _send(project, "START", run)
    try:
        yield run
    except BaseException as error:
        _send(project, "FAIL", run, f"{type(error).__name__}: {error}")
        raise
    _send(project, "COMPLETE", run)


def read_table(project: Project, table: str, version: int | None = None) -> Dataset:
    """Return a table of the lake as a dataset, at its newest version or the given one."""
    version = project.lake.version(table) if version is None else version
    told = str(version) if version >= 0 else ""
    return Dataset("file", str(project.lake.root / table), told, is_table=True)


def read_model(project: Project, version: int) -> Dataset:
    """Return a model version as a dataset."""
    return Dataset("mlflow", f"models:/{project.problem.name}", str(version))


def read_journal(project: Project) -> Dataset:
    """Return the journal as a dataset."""
    return Dataset("file", str(project.settings.home / "journal" / "journal.db"))


def read_file(name: str, sha256: str) -> Dataset:
    """Return a source file as a dataset: its version is the hash of its bytes."""
    url = urlsplit(name)
    if url.netloc:
        return Dataset(f"{url.scheme}://{url.netloc}", url.path, sha256)
    return Dataset("file", str(Path(name).absolute()) if Path(name).exists() else name, sha256)


def name_run(project: Project, *parts: object) -> str:
    """Return an id for a run: the same parts give the same id, so that a repeat is not another run."""
    text = "/".join([PRODUCER, str(project.lake.root), *map(str, parts)])
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


@lru_cache
def open_emitter(home: Path) -> Emitter:
    """Return the home's one emitter in this process."""
    return Emitter(lambda: connect(home / "lineage" / "events.jsonl"))


def _describe_batch(project: Project, manifest: Manifest) -> Run:
    outputs = []
    if manifest.status == LANDED:
        profile, schema = json.loads(manifest.profile or "{}"), json.loads(manifest.schema or "{}")
        table = read_table(project, manifest.table)
        outputs.append(replace(table, rows=manifest.accepted, schema=schema, profile=profile))
    if manifest.quarantined:
        outputs.append(replace(read_table(project, QUARANTINE), rows=manifest.quarantined))
    counts = (manifest.status, manifest.revision, manifest.accepted)
    return Run(
        job=f"ingest.{manifest.table}",
        id=name_run(project, "ingest", manifest.batch_id, *counts),
        period=manifest.period,
        inputs=[read_file(**file) for file in json.loads(manifest.files or "[]")],
        outputs=outputs,
        facts={
            "batchId": manifest.batch_id,
            "sha256": manifest.sha256,
            "status": manifest.status,
            "revision": manifest.revision,
            "rowsSeen": manifest.seen,
            "warnings": manifest.warnings,
        },
    )


def _describe_features(project: Project, table: FeatureTable, period: Period) -> Run:
    inputs = [read_table(project, name) for name in table.reads]
    out = read_table(project, table.name)
    kinds = {**dict.fromkeys(table.keys, "String"), STAMP: "Datetime"}
    schema = {**kinds, **{name: str(kind) for name, kind in table.features.items()}}
    outputs = [replace(out, schema=schema)]
    told = [dataset.version for dataset in (*inputs, *outputs)]
    run = name_run(project, "features", table.name, period, *told)
    return Run(f"features.{table.name}", run, period, inputs, outputs)


def _describe_labels(project: Project, period: Period) -> Run:
    inputs = [read_journal(project), *(read_table(project, table.name) for table in project.problem.raw)]
    outputs = [read_table(project, LABELS)]
    return Run("label", name_run(project, "label", period, outputs[0].version), period, inputs, outputs)


def _describe_verdict(project: Project, version: int, window: Period) -> Run:
    inputs = [read_journal(project), read_table(project, LABELS), read_model(project, version)]
    outputs = [read_table(project, VERDICTS)]
    return Run("monitor", name_run(project, "monitor", version, window), window, inputs, outputs)


def _tell(project: Project, describe: Callable[[], Run], failure: str = "") -> None:
    """Tell of a run that is over. Both its events are told: the standard wants each run to begin."""

    def build() -> list["RunEvent"]:
        run, problem = describe(), project.problem.name
        ended = build_event("FAIL" if failure else "COMPLETE", problem, run, failure)
        return [_begin(problem, run), ended]

    open_emitter(project.settings.home).send(build)


def _send(project: Project, state: str, run: Run, failure: str = "") -> None:
    problem = project.problem.name

    def build() -> list["RunEvent"]:
        return [_begin(problem, run) if state == "START" else build_event(state, problem, run, failure)]

    open_emitter(project.settings.home).send(build)


def _begin(problem: str, run: Run) -> "RunEvent":
    return build_event("START", problem, Run(run.job, run.id, run.period, run.inputs))
