"""What a training run read, as MLflow's dataset inputs: the run's page shows tables, versions and hashes."""

import json
from typing import Any

import polars as pl

from feature_repo.lake import content_hash
from flows.project import Project
from flows.training_set import TrainingSet, to_matrix

SCHEMA_ROWS = 1_000  # enough to tell types from; MLflow takes seconds over all rows
DIGEST = 36  # characters that MLflow keeps of a digest


def log_inputs(project: Project, training: TrainingSet, fitted: pl.DataFrame, holdout: pl.DataFrame) -> None:
    """Log the rows fitted on, those held out and each lake table at its version, in the active run.

    The training set's digest is the start of `TrainingSet.sha256`, so of fitted and held-out rows together.
    """
    import mlflow

    name, snapshot = project.problem.feature_service, training.snapshot
    rows = _describe_rows(project, training, f"{name} training", training.sha256, fitted)
    held = holdout.drop("score", strict=False)
    judged = _describe_rows(project, training, f"{name} holdout", content_hash(held), held)
    tables = {table: version for table, version in snapshot.versions.items() if version >= 0}
    datasets = [rows, judged, *(_describe_table(project, table, at) for table, at in tables.items())]
    whole = {"snapshot": snapshot.id, "training_set_sha256": training.sha256}
    mlflow.log_inputs(
        datasets=datasets,
        contexts=["training", "evaluation", *("lake" for _ in tables)],
        tags_list=[
            {**whole, "rows": str(len(fitted))},
            {**whole, "rows": str(len(held))},
            *({"snapshot": snapshot.id, "version": str(at)} for at in tables.values()),
        ],
    )


def _describe_rows(
    project: Project, training: TrainingSet, name: str, sha256: str, rows: pl.DataFrame
) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.models import infer_signature

    class CountedDataset(MetaDataset):
        """Shows how many rows there were, as MLflow does of frames."""

        def to_dict(self) -> dict[str, str]:
            return {**super().to_dict(), "profile": json.dumps({"num_rows": len(rows)})}

    versions = {f"lake.{table}": str(version) for table, version in training.snapshot.versions.items()}
    told = {"perennial.snapshot": training.snapshot.id, "perennial.until": training.until.isoformat()}
    source = CodeDatasetSource(tags={**told, "perennial.sha256": sha256, **versions})
    schema = infer_signature(to_matrix(rows.head(SCHEMA_ROWS), project.problem)).inputs
    return CountedDataset(source, name=name, digest=sha256[:DIGEST], schema=schema)


def _describe_table(project: Project, table: str, version: int) -> Any:
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    path = str(project.lake.root / table)
    source = DeltaDatasetSource(path=path, delta_table_version=version)
    # The version is in the digest too: MLflow leaves version 0 out of the source.
    return MetaDataset(source, name=table, digest=f"version {version}")
