"""From one batch forward: the features, model versions and answers that its rows can have touched."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from feature_repo.contract import FeatureTable, Period, RawTable
from feature_repo.errors import NotEnoughData, PerennialError
from flows.manifests import STOPPED, Manifest, read_manifests
from flows.project import Project
from flows.touched_answers import TouchedAnswers, count_answers, find_answers, group_answers
from flows.trace import is_reachable

STAMP = "event_timestamp"
INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class TouchedFeatures:
    """Rows of one feature table that were computed from rows of the batch."""

    table: str
    rows: int
    keys: int
    first_tick: datetime | None
    last_tick: datetime | None


@dataclass(frozen=True)
class TouchedModel:
    """A model version whose training snapshot holds rows of the batch."""

    version: str
    snapshot: str
    rows: int
    until: datetime | None


@dataclass(frozen=True)
class BatchTrace:
    """What a batch touched.

    rows_found      how many of its rows the lake still holds, in `found_version` of its table
    by_features     answers given on features that were computed from its rows
    by_model        answers of models that were trained on its rows
    answers         answers touched in one way or the other, each counted once
    """

    batch: Manifest
    rows_found: int
    found_version: int | None
    features: tuple[TouchedFeatures, ...]
    models: tuple[TouchedModel, ...]
    by_features: tuple[TouchedAnswers, ...]
    by_model: tuple[TouchedAnswers, ...]
    answers: int
    notes: tuple[str, ...]


def trace_batch(project: Project, batch_id: str, *, ids: bool = False) -> BatchTrace:
    """Return what a batch touched; its id, or the beginning of it. Raises NotEnoughData if there is none."""
    batch = find_batch(project, batch_id)
    raw = next(table for table in project.problem.raw if table.name == batch.table)
    rows, version, notes = _find_rows(project, raw, batch)
    models, more = _find_models(project, raw, batch)
    frames = {
        table.name: _touch_features(project, table, raw, batch, rows)
        for table in project.problem.feature_tables
        if batch.table in table.reads and batch.status != STOPPED
    }
    by_features = find_answers(project, frames)
    trained = [model.version for model in models]
    by_model = count_answers(project, trained, ids)
    also = by_features.filter(pl.col("model_version").is_in(trained)).height if trained else 0
    return BatchTrace(
        batch=batch,
        rows_found=len(rows) if rows is not None else 0,
        found_version=version,
        features=tuple(_summarize(name, frame) for name, frame in frames.items()),
        models=tuple(models),
        by_features=group_answers(by_features, ids),
        by_model=by_model,
        answers=len(by_features) + sum(found.answers for found in by_model) - also,
        notes=(*notes, *more),
    )


def find_batch(project: Project, batch_id: str) -> Manifest:
    """Return the one batch whose id is or begins with the text. Raises NotEnoughData."""
    known = read_manifests(project.lake)
    names: list[str] = known["batch_id"].to_list()
    found = [batch_id] if batch_id in names else [name for name in names if name.startswith(batch_id)]
    if len(found) != 1:
        near = found or difflib.get_close_matches(batch_id, names, n=5, cutoff=0)
        raise NotEnoughData(
            f"batch {batch_id}",
            got=f"{len(found) or 'no'} batches of that id",
            expected="the id of one batch, or the beginning of it",
            next_step=f"Nearest of {len(near)}: {', '.join(near[:5])}." if near else "Take in a batch first.",
        )
    return Manifest(**known.row(names.index(found[0]), named=True))


def _find_rows(
    project: Project, raw: RawTable, batch: Manifest
) -> tuple[pl.DataFrame | None, int | None, list[str]]:
    """Return the batch's rows, from the newest table or a snapshot's; None if they are not to be had."""
    if batch.status == STOPPED:
        return None, None, ["it was stopped: nothing of it landed, so nothing was touched"]
    for version in _list_versions(project, raw.name):
        rows = _read_batch(project, raw, batch, version)
        if len(rows):
            return rows, version, []
    if batch.accepted == 0:
        return pl.DataFrame(schema=dict(raw.schema)), None, ["none of its rows was accepted"]
    told = "its rows are in no version that a snapshot names: every key is taken as touched"
    return None, None, [told]


def _list_versions(project: Project, table: str) -> list[int]:
    newest, named = project.lake.version(table), set()
    for snapshot in project.lake.snapshots():
        named.add(project.lake.load_snapshot(snapshot).versions.get(table, -1))
    older = sorted((v for v in named if 0 <= v < newest), reverse=True)
    return [newest, *(v for v in older if project.lake.can_read(table, v))]


def _read_batch(project: Project, raw: RawTable, batch: Manifest, version: int) -> pl.DataFrame:
    rows = project.lake.read(raw.name, batch.period, by=raw.known_at, version=version)
    return rows.filter(batch_id=batch.batch_id) if rows.width else rows


def _find_models(project: Project, raw: RawTable, batch: Manifest) -> tuple[list[TouchedModel], list[str]]:
    trained, notes = _list_models(project)
    found: list[TouchedModel] = []
    cached: dict[int, pl.DataFrame] = {}
    for version, (snapshot_id, until) in sorted(trained.items(), key=lambda item: int(item[0])):
        try:
            at = project.lake.load_snapshot(snapshot_id).versions.get(raw.name, -1)
        except PerennialError:
            notes.append(f"version {version}: snapshot {snapshot_id} is not recorded in this lake")
            continue
        if at < 0 or not project.lake.can_read(raw.name, at):
            notes.append(f"version {version}: version {at} of {raw.name} cannot be read any more")
            continue
        if at not in cached:
            cached[at] = _read_batch(project, raw, batch, at)
        rows = cached[at]
        used = rows.filter(pl.col(raw.known_at) < until) if until and len(rows) else rows
        if len(used):
            found.append(TouchedModel(version, snapshot_id, len(used), until))
    return found, notes


def _list_models(project: Project) -> tuple[dict[str, tuple[str, datetime | None]], list[str]]:
    """Return version -> (snapshot, until) of all registered versions, or of those on this home."""
    told: dict[str, Mapping[str, Any]] = {}
    home = project.settings.home
    for file in (*home.glob("models/*/contract.json"), *home.glob("packages/*/contract.json")):
        contract = json.loads(file.read_text())
        if file.parent.name.isdigit():  # else it is on its way in
            told[file.parent.name] = {f"perennial.{key}": contract.get(key) for key in ("snapshot", "until")}
    notes = ["MLflow does not answer: only model versions whose package is on this home are known"]
    if is_reachable(project.settings.mlflow_url):
        try:
            told.update(_read_versions(project))
            notes = []
        except PerennialError as error:
            notes.append(str(error))
    trained = {}
    for version, tags in told.items():
        if tags.get("perennial.snapshot"):
            until = tags.get("perennial.until")
            trained[version] = (tags["perennial.snapshot"], datetime.fromisoformat(until) if until else None)
    return trained, notes


def _read_versions(project: Project) -> dict[str, dict[str, str]]:
    from services.models import Registry

    registry = Registry(project.settings.mlflow_url, project.problem.name, quick=True)
    return {str(version): tags for version, tags in registry.versions().items()}


def _touch_features(
    project: Project, table: FeatureTable, raw: RawTable, batch: Manifest, rows: pl.DataFrame | None
) -> pl.DataFrame:
    """Return the table's keys and ticks around the batch, each with whether it was `touched`."""
    # Beyond the last touched tick too: an answer on a newer one is not touched.
    reach = Period(batch.since, batch.until + table.lookback + table.ttl)
    frame = project.lake.read(table.name, reach, by=STAMP, closed="right")
    if not frame.width:
        columns = [*(pl.Series(key, [], pl.String) for key in table.keys), pl.Series(STAMP, [], INSTANT)]
        return pl.DataFrame([*columns, pl.Series("touched", [], pl.Boolean)])
    ticks = frame.select(*table.keys, STAMP).sort(STAMP)
    if rows is None:
        within = pl.col(STAMP).is_between(batch.since, batch.until + table.lookback, closed="right")
        return ticks.with_columns(touched=within)
    # A tick is computed from rows known in [tick - lookback, tick): is there one of the batch?
    shared = [key for key in table.source_keys if key in raw.schema]
    known = rows.select(*shared, _known=pl.col(raw.known_at)).sort("_known")
    joined = ticks.join_asof(
        known,
        left_on=STAMP,
        right_on="_known",
        by=shared or None,
        strategy="backward",
        tolerance=table.lookback,
        allow_exact_matches=False,
        check_sortedness=False,
    )
    return joined.select(*table.keys, STAMP, touched=pl.col("_known").is_not_null())


def _summarize(name: str, frame: pl.DataFrame) -> TouchedFeatures:
    touched = frame.filter("touched")
    first, last = touched.select(first=pl.col(STAMP).min(), last=pl.col(STAMP).max()).row(0)
    return TouchedFeatures(name, len(touched), touched.drop(STAMP, "touched").n_unique(), first, last)
