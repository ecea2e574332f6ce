"""What the bench and the proofs of serving work on: real flights, a trained model, values online.

Made once into a folder and kept there, but for the model's package: that is written anew by the code as
it is now. The model learned from the flights before MOMENT; requests are asked in the hour after it.
"""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.contract import Period
from feature_repo.facts import DECIDE_AHEAD
from feature_repo.problem import PROBLEM

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "var" / "bench" / "serving"
MOMENT = datetime(2013, 12, 3, 17, tzinfo=UTC)  # noon of a Tuesday in New York: all airports are busy
AHEAD = timedelta(days=2)  # flights up to so long after MOMENT are asked about
FORMAT = 3  # of the folder; another number makes it anew
BATCH = 100
# The same members on numbers that are encoded already: all that the flat ones take.
DUMP = """
import operator, sys, joblib, numpy, skops.io
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
folder, *trusted = sys.argv[1:]
vote = skops.io.load(f"{folder}/model.skops", trusted=trusted).named_estimators_
known = [*vote["flat"]["columns"].get_feature_names_out()]
def take(one):
    places = [known.index(name) for name in one["columns"].get_feature_names_out()]
    pick = FunctionTransformer(operator.itemgetter((slice(None), places)))
    return make_pipeline(pick, *[step for _, step in one.steps[1:]])
members = [(name, FrozenEstimator(take(one))) for name, one in vote.items()]
whole = VotingClassifier(members, voting="soft").fit(numpy.zeros((2, len(known))), [0, 1])
joblib.dump(whole, f"{folder}/trees.joblib")
"""


@dataclass(frozen=True)
class Material:
    """A folder of what was made.

    home/         the lake and the online store, as ingest leaves them at MOMENT
    rows.parquet  every flight of the year, with features and outcome (null: it never arrived)
    flights.json  requests as clients send them
    inputs.json   the same flights as the model takes them: its inputs by name
    model.skops   the estimator that was fitted; trees.joblib: the same on encoded numbers
    """

    folder: Path

    @property
    def home(self) -> Path:
        """The home whose feature store holds the values."""
        return self.folder / "home"

    @cached_property
    def flights(self) -> list[dict[str, Any]]:
        """Requests as clients send them."""
        return json.loads((self.folder / "flights.json").read_text())

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """The model's inputs of the same flights, by name; None for missing."""
        return json.loads((self.folder / "inputs.json").read_text())

    @cached_property
    def encoded(self) -> list[list[float | None]]:
        """The same as numbers alone, categories encoded, in the order in which the trees take them."""
        columns = self.load_estimator().named_estimators_["flat"].named_steps["columns"]
        matrix = columns.transform(to_frame(self.inputs))
        return [[None if value != value else value for value in row] for row in matrix.tolist()]

    def load_estimator(self) -> Any:
        """Return the fitted estimator."""
        import skops.io

        from services.package import TRUSTED_TYPES

        return skops.io.load(self.folder / "model.skops", trusted=list(TRUSTED_TYPES))

    def read_rows(self) -> pl.DataFrame:
        """Return the year's flights with features and outcome, oldest first."""
        return pl.read_parquet(self.folder / "rows.parquet")


def to_frame(inputs: list[dict[str, Any]]) -> Any:
    """Return inputs by name as the estimator takes them."""
    import pandas as pd

    kinds = {f.name: object if f.kind == "category" else float for f in PROBLEM.features}
    return pd.DataFrame(inputs, columns=list(PROBLEM.feature_names)).astype(kinds)


def score_first(material: Material) -> float:
    """Return the estimator's own probability for the first of the flights."""
    first = to_frame(material.inputs[:1])
    return float(material.load_estimator().predict_proba(first)[0, 1])


def prepare(folder: Path = FOLDER) -> Material:
    """Make what is not there yet, in one or two minutes; the folder holds all of it or none."""
    material = Material(folder)
    if _is_made(folder):
        return material
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "home").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _make_rows(material)
        _make_requests(material)
        _fit(material)
    (folder / "made.json").write_text(json.dumps(_describe()))
    return material


def write_model(material: Material, folder: Path) -> Path:
    """Write the model's package with the project's own training code as it is now; return its folder."""
    from feature_repo.lake import Lake
    from flows.package import write_package
    from flows.train import measure, measure_importance, predict
    from flows.training_set import TrainingSet, split_by_time

    rows, estimator = material.read_rows().drop_nulls(PROBLEM.target), material.load_estimator()
    known = rows.filter(pl.col("decided_at") < MOMENT - PROBLEM.horizon)
    fitted, holdout = split_by_time(known, PROBLEM, timedelta(days=14), MOMENT)
    snapshot = Lake(material.home / "lake").snapshot([t.name for t in PROBLEM.feature_tables])
    holdout = holdout.with_columns(score=pl.Series(predict(estimator, holdout, PROBLEM)))
    importance = measure_importance(estimator, holdout, PROBLEM)
    metrics = measure(holdout[PROBLEM.target].to_numpy(), holdout["score"].to_numpy())
    training = TrainingSet(known, snapshot, MOMENT, {}, "0" * 64)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_package(folder, PROBLEM, estimator, training, fitted, holdout, importance, metrics)
    return folder


def _describe() -> dict[str, Any]:
    definitions = (ROOT / "feature_repo" / "definitions.lock").read_text()
    return {"format": FORMAT, "moment": MOMENT.isoformat(), "definitions": definitions}


def _is_made(folder: Path) -> bool:
    try:
        return json.loads((folder / "made.json").read_text()) == _describe()
    except (OSError, ValueError):
        return False


def _make_rows(material: Material) -> None:
    from feature_repo.source import open_source
    from tests.bench.bench_features import YEAR, build_home, open_store

    build_home(material.home)
    outcomes = PROBLEM.build_outcomes({"arrivals": open_source()("arrivals", YEAR).frame})
    asked = pl.read_parquet(material.home / "requests.parquet").join(outcomes, on=PROBLEM.entity)
    joined = open_store(material.home).read_historical(asked.drop("status", "known_at"))
    carried = [PROBLEM.entity, "decided_at", PROBLEM.target, *PROBLEM.feature_names]
    joined.select(carried).sort("decided_at", PROBLEM.entity).write_parquet(material.folder / "rows.parquet")


def _make_requests(material: Material) -> None:
    """Put the values online as of MOMENT, and ask about the flights after it as of the hour after it."""
    from tests.bench.bench_features import YEAR, open_store

    store = open_store(material.home)
    tables = {t.name: store._lake.read(t.name) for t in PROBLEM.feature_tables}
    store.write_period(tables, Period(YEAR.since, MOMENT))
    within = pl.col("scheduled_departure").is_between(MOMENT + DECIDE_AHEAD, MOMENT + AHEAD)
    rows = pl.read_parquet(material.home / "requests.parquet").filter(within).sort("scheduled_departure")
    asked_at = [MOMENT + timedelta(seconds=1 + i % 3_500) for i in range(len(rows))]
    rows = rows.with_columns(decided_at=pl.Series(asked_at).cast(pl.Datetime("us", "UTC")))
    vectors = store.read_online(rows.to_dicts())
    flights, inputs = [], []
    for row, vector in zip(PROBLEM.add_request_features(rows).to_dicts(), vectors, strict=True):
        values = {**row, **vector.values}
        inputs.append({name: values[name] for name in PROBLEM.feature_names})
        flights.append(_to_request(row))
    (material.folder / "flights.json").write_text(json.dumps(flights))
    (material.folder / "inputs.json").write_text(json.dumps(inputs))


def _to_request(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in ("carrier", "flight", "origin", "dest")}
    times = {
        "scheduled_departure": row["scheduled_departure"].isoformat(),
        "requested_at": row["decided_at"].isoformat(),
    }
    return {**told, "distance": int(row["distance"]), **times}


def _fit(material: Material) -> None:
    import skops.io

    from flows.model import build_estimator
    from flows.training_window import fit_staggered
    from services.package import TRUSTED_TYPES

    rows = material.read_rows().drop_nulls(PROBLEM.target)
    fitted = rows.filter(pl.col("decided_at") < MOMENT - timedelta(days=14))
    estimator = fit_staggered(build_estimator, fitted, PROBLEM, None)
    skops.io.dump(estimator, material.folder / "model.skops")
    # In a process of its own: what is imported here (dill, by way of Feast) changes how things are pickled,
    # and the peers' packages cannot read that.
    subprocess.run([sys.executable, "-c", DUMP, str(material.folder), *TRUSTED_TYPES], check=True)
