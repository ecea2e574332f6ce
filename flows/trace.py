"""From one answer back to where it came from: model, run, snapshot, features, rows, batches, files.

Reads what is on this home; MLflow is asked for the run's name and address, and may be down.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feature_repo.errors import NotEnoughData, PerennialError
from feature_repo.lake import Snapshot
from flows.feature_origins import FeatureRow, add_sources, find_feature_rows
from flows.project import Project
from services.journal import Prediction

PREDICTIONS = Path("journal") / "journal.db"


@dataclass(frozen=True)
class ModelOrigin:
    """A model version and what it was trained on; what is not known is None or empty, with a note."""

    version: str
    run_id: str | None = None
    run_name: str | None = None
    run_url: str | None = None
    snapshot: str | None = None
    table_versions: Mapping[str, int] | None = None
    training_set_sha256: str | None = None
    rows_fitted: int | None = None
    rows_held_out: int | None = None
    trained_until: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """One answer and everything behind it; `request_features` came with the request."""

    prediction: Prediction
    model: ModelOrigin | None
    request_features: Mapping[str, Any]
    features: tuple[FeatureRow, ...]


def trace_prediction(project: Project, prediction_id: str) -> Trace:
    """Return what is behind an answer. Raises NotEnoughData if the journal does not know it."""
    prediction = find_prediction(project, prediction_id)
    answered = json.loads(prediction.features)
    own = {f.name: answered.get(f.name) for f in project.problem.features if f.source == "request"}
    model = find_model(project, prediction.model_version) if prediction.model_version else None
    rows = add_sources(project, find_feature_rows(project, prediction))
    return Trace(prediction, model, own, rows)


def find_prediction(project: Project, prediction_id: str) -> Prediction:
    """Return a journalled answer. Raises NotEnoughData if there is none of that id."""
    found = project.journal.find_prediction(prediction_id)
    if found is None:
        raise NotEnoughData(
            f"prediction {prediction_id}",
            got=f"no answer of that id in {project.settings.home / PREDICTIONS}",
            expected="the `prediction_id` of an answer",
            next_step="Copy it from an answer of /predict; --home says which home is looked at.",
        )
    return found


def find_model(project: Project, version: str) -> ModelOrigin:
    """Return what a model version came from: its package says, and MLflow if it runs."""
    known, notes = _read_contract(project, version), []
    snapshot: Snapshot | None = None
    if known is None:
        notes.append("its package is not on this home, so its snapshot is not known")
    else:
        try:
            snapshot = project.lake.load_snapshot(known["snapshot"])
        except (PerennialError, OSError):
            notes.append(f"snapshot {known['snapshot']} is not recorded in this lake")
    run: dict[str, Any] = {}
    try:
        run = _read_run(project, version) if is_reachable(project.settings.mlflow_url) else {}
        notes += [] if run else [f"run unknown: nobody answers at {project.settings.mlflow_url} (MLflow)"]
    except Exception as error:  # noqa: BLE001 - noted: the trace must work without MLflow
        notes.append(f"run unknown: MLflow at {project.settings.mlflow_url} says {type(error).__name__}")
    known = known or {}
    return ModelOrigin(
        version=version,
        run_id=run.get("run_id"),
        run_name=run.get("name"),
        run_url=run.get("url"),
        snapshot=known.get("snapshot"),
        table_versions=dict(snapshot.versions) if snapshot else None,
        training_set_sha256=known.get("training_set_sha256") or run.get("sha256"),
        rows_fitted=run.get("rows_fitted"),
        rows_held_out=run.get("rows_held_out"),
        trained_until=known.get("until") or known.get("trained_until"),
        notes=tuple(notes),
    )


def is_reachable(url: str) -> bool:
    """Return whether anybody listens there; importing MLflow to find out takes seconds."""
    place = urlsplit(url)
    if not place.hostname:
        return True  # a file
    try:
        port = place.port or {"http": 80, "https": 443}.get(place.scheme, 0)
        with socket.create_connection((place.hostname, port), timeout=2):
            return True
    except OSError:
        return False


def _read_contract(project: Project, version: str) -> dict[str, Any] | None:
    # Without asking the registry: the pipeline's own copy, or the service's.
    for folder in ("packages", "models"):
        file = project.settings.home / folder / version / "contract.json"
        if file.is_file():
            contract: dict[str, Any] = json.loads(file.read_text())
            return contract
    return None


def _read_run(project: Project, version: str) -> dict[str, Any]:
    # MLflow reads these when it is first used; by default it tries for minutes if nobody answers.
    os.environ.update(MLFLOW_HTTP_REQUEST_TIMEOUT="2", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    from mlflow import MlflowClient

    url = project.settings.mlflow_url
    client = MlflowClient(url, url)
    run_id = client.get_model_version(project.problem.name, version).run_id
    run = client.get_run(run_id)
    rows = {name: run.data.params.get(name) for name in ("rows_fitted", "rows_held_out")}
    return {
        "run_id": run_id,
        "name": run.info.run_name,
        "url": f"{url}/#/experiments/{run.info.experiment_id}/runs/{run_id}",
        "sha256": run.data.tags.get("perennial.training_set_sha256"),
        **{name: int(value) if value else None for name, value in rows.items()},
    }
