"""What is known of each feature: where it comes from, who takes it, and whether it is worth its cost."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from feature_repo.contract import FeatureTable, Period
from feature_repo.errors import PerennialError
from feature_repo.fingerprint import REQUEST
from feature_repo.source_columns import find_columns, find_request_fields
from flows.features import STAMP, compute_features
from flows.ingest import landed_until
from flows.live_definitions import FINGERPRINTS, LIVE, recall_live_models
from flows.project import Project
from flows.retention import check_answers
from flows.skew import read_skew

LATELY = timedelta(days=7)


@dataclass(frozen=True)
class Uses:
    """Which model versions take each feature; `importance` by live version.

    trouble  why the registry could not be asked: then only what was last known of the live models counts
    """

    versions: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, int]
    importance: Mapping[str, Mapping[int, float]]
    trouble: str = ""

    @property
    def known(self) -> bool:
        """Whether the registry answered, or models are known from before."""
        return bool(self.versions) or not self.trouble


@dataclass(frozen=True)
class FeatureReport:
    """One feature, as `perennial features` tells of it.

    columns     what its table reads, by raw table
    versions    registered models that take it; `aliases` of those that are live
    importance  in the champion: the AUC that shuffling it costs
    null_share  of its rows of the last LATELY; `age_hours` from its newest tick to what has landed
    skew        rate of mismatches that the skew probe found last; None if it compared no value then
    cost_ms     to compute one tick of its whole table, measured on the last day
    unused      no registered model takes it; None if no model is known
    dead        why it cannot tell a model anything, or ""
    """

    name: str
    table: str
    type: str
    owner: str
    meaning: str
    fresh_for: str
    columns: Mapping[str, Sequence[str]]
    versions: Sequence[int]
    aliases: Sequence[str]
    importance: float | None
    null_share: float | None
    age_hours: float | None
    skew: float | None
    cost_ms: float | None
    unused: bool | None
    dead: str


@dataclass(frozen=True)
class _Lately:
    rows: pl.DataFrame
    age_hours: float | None
    cost_ms: float | None


def report_features(project: Project) -> tuple[list[FeatureReport], Uses]:
    """Return every feature that the problem states, stored ones first, and who takes them."""
    uses, skew = find_uses(project), _read_skew(project)
    landed = landed_until(project)
    found = []
    for table in project.problem.feature_tables:
        lately, columns = _look(project, table, landed), find_columns(project.problem, table)
        for name, kind in table.features.items():
            told = {"table": table.name, "type": str(kind), "owner": table.owner, "columns": columns}
            told |= {"meaning": table.meanings.get(name, table.description), "fresh_for": str(table.ttl)}
            found.append(_report(name, told, uses, lately, skew))
    fields = find_request_fields(project.problem)
    for feature in project.problem.features:
        if feature.source == REQUEST:
            told = {"table": REQUEST, "type": feature.kind, "owner": project.problem.owner}
            told |= {
                "columns": {REQUEST: fields[feature.name]},
                "meaning": feature.meaning,
                "fresh_for": "asked with the request",
            }
            found.append(_report(feature.name, told, uses, _Lately(pl.DataFrame(), None, None), skew))
    return found, uses


def find_uses(project: Project) -> Uses:
    """Return which versions take which features: by their contract, where it is at hand, else by table.

    Without MLflow: what was last known of the live models.
    """
    try:
        check_answers(project.settings.mlflow_url)
        aliases = {alias: v for alias, v in project.registry.aliases().items() if alias in LIVE}
        known = {v: tags.get(FINGERPRINTS, "{}") for v, tags in project.registry.versions().items()}
    except PerennialError as error:
        models = recall_live_models(project)
        aliases = {alias: model.version for model in models for alias in model.aliases}
        taken = {model.version: list(model.definitions) for model in models}
        return _gather(project, aliases, taken, str(error))
    return _gather(project, aliases, {v: list(json.loads(told)) for v, told in known.items()}, "")


def _gather(
    project: Project, aliases: Mapping[str, int], taken: Mapping[int, Sequence[str]], trouble: str
) -> Uses:
    versions: dict[str, list[int]] = {}
    importance: dict[str, dict[int, float]] = {}
    for version, tables in sorted(taken.items()):
        contract = _read_contract(project, version, live=version in aliases.values())
        if contract:
            names = [feature["name"] for feature in contract["features"]]
        else:
            used = [t for t in project.problem.feature_tables if t.name in tables]
            names = [name for table in used for name in table.features]
            names += [f.name for f in project.problem.features if f.source == REQUEST and REQUEST in tables]
        for name in names:
            versions.setdefault(name, []).append(version)
        if contract and version in aliases.values():
            for feature in contract["features"]:
                importance.setdefault(feature["name"], {})[version] = float(feature["importance"])
    return Uses({name: tuple(v) for name, v in versions.items()}, aliases, importance, trouble)


def _read_contract(project: Project, version: int, *, live: bool) -> Mapping[str, Any] | None:
    here = project.settings.home / "packages" / str(version)
    try:
        folder = here if here.is_dir() or not live else project.package(version)
        told: Mapping[str, Any] = json.loads((folder / "contract.json").read_text())
    except (PerennialError, FileNotFoundError):
        return None
    return told


def _look(project: Project, table: FeatureTable, landed: datetime) -> _Lately:
    newest = project.lake.latest(table.name, STAMP)
    if newest is None:
        return _Lately(pl.DataFrame(), None, None)
    rows = project.lake.read(table.name, Period(newest - LATELY, newest), by=STAMP, closed="right")
    age = max((landed - newest) / timedelta(hours=1), 0.0)
    return _Lately(rows, age, _measure_cost(project, table, newest))


def _measure_cost(project: Project, table: FeatureTable, newest: datetime) -> float | None:
    day = Period(newest - max(table.every, timedelta(days=1)), newest)
    ticks = len(table.ticks(day))
    since = time.perf_counter()
    compute_features(project, table, day)
    return (time.perf_counter() - since) * 1_000 / ticks if ticks else None


def _read_skew(project: Project) -> Mapping[str, float | None]:
    newest = read_skew(project).sort("until", "since").unique("feature", keep="last")
    return dict(newest.select("feature", "rate").iter_rows())


def _report(
    name: str, told: Mapping[str, Any], uses: Uses, lately: _Lately, skew: Mapping[str, float | None]
) -> FeatureReport:
    versions = uses.versions.get(name, ())
    values = lately.rows[name] if name in lately.rows.columns else None
    return FeatureReport(
        name=name,
        **told,
        versions=versions,
        aliases=tuple(sorted(alias for alias, version in uses.aliases.items() if version in versions)),
        importance=uses.importance.get(name, {}).get(uses.aliases.get("champion", -1)),
        null_share=values.null_count() / len(values) if values is not None and len(values) else None,
        age_hours=lately.age_hours,
        skew=skew.get(name),
        cost_ms=lately.cost_ms,
        unused=not versions if uses.known else None,
        dead=_judge(values, uses.importance.get(name, {})),
    )


def _judge(values: pl.Series | None, importance: Mapping[int, float]) -> str:
    why = []
    if values is not None and len(values):
        if values.null_count() == len(values):
            why.append(f"null throughout the last {LATELY.days} days")
        elif values.drop_nulls().n_unique() == 1:
            why.append(f"one value throughout the last {LATELY.days} days")
    if importance and not any(importance.values()):
        why.append("of no importance in any live model")
    return "; ".join(why)
