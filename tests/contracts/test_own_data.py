"""Another problem moves in by replacing the files that the document names, and no others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_reading import ROOT, list_rows

DOCUMENT = ROOT / "infra" / "docs" / "bring-your-own-data.md"
KEPT = {"flows/model.py"}  # trees suit the second problem as well
DELETED = ("feature_repo/congestion.py", "feature_repo/lines.py")  # more features of flights
STORIES = ("flows/demo.py", "flows/story.py", "flows/drill/")  # of the bundled problem
SCHEMAS = '''
"""What clients of the shop send."""

from datetime import UTC, datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from services.journal import Outcome
from services.wire import Wire

Instant = Annotated[datetime, Meta(tz=True)]


class Order(Struct, forbid_unknown_fields=True, frozen=True):
    """An order as it comes in."""

    shop: str
    amount: Annotated[float, Meta(ge=0)]
    ordered_at: Instant
    requested_at: Instant | UnsetType = UNSET


class Settled(Struct, forbid_unknown_fields=True, frozen=True):
    """What became of an order."""

    order_id: str
    returned: bool
    observed_at: Instant


def to_row(order):
    """Return the order as a row; its id is made of what the request says."""
    at = order.ordered_at.astimezone(UTC)
    fields = {"order_id": f"{at:%Y%m%dT%H%M%S}-{order.shop}", "shop": order.shop, "amount": order.amount}
    return {**fields, "ordered_at": at, "decided_at": at}


def build_wire(problem):
    """Return what the service needs to speak of orders."""
    return Wire(
        request=Order,
        feedback=Settled,
        to_row=to_row,
        to_outcome=lambda s: Outcome(s.order_id, None, float(s.returned), "settled", s.observed_at),
        example={"shop": "north", "amount": 5.0, "ordered_at": "2024-01-05T10:30:00Z"},
        example_feedback={"order_id": "o1", "returned": True, "observed_at": "2024-01-08T10:30:00Z"},
    )
'''
TRANSFORMS = '''
"""Ticks; the features themselves stand in the problem's module."""

from datetime import timedelta


def hourly_ticks(period):
    """Return the full hours in (since, until]."""
    first = period.since.replace(minute=0, second=0, microsecond=0)
    hours = int((period.until - first) / timedelta(hours=1))
    return [first + timedelta(hours=n) for n in range(1, hours + 1)]
'''
REPLACED = {
    "feature_repo/problem.py": "from tests.toy import TOY as PROBLEM\n",
    "feature_repo/facts.py": '"""Nothing is shared."""\n',
    "feature_repo/source.py": "from tests.toy import open_toy_source\n\n\n"
    "def open_source(location):\n    return open_toy_source()\n",
    "feature_repo/transforms.py": TRANSFORMS,
    "expectations/raw.py": "from tests.toy import add_check_columns, suite\n",
    "expectations/raw_checks.py": '"""Nothing is compared across columns."""\n',
    "services/schemas.py": SCHEMAS,
}
# The life of the second problem: landed, learned from, asked by the request that `perennial example` prints.
SCRIPT = """
import json, sys
from datetime import timedelta
from pathlib import Path

import msgspec
import polars as pl

import feature_repo.problem, flows.project, services.schemas
from feature_repo.contract import Period
from feature_repo.settings import Settings
from flows.example import example_request
from flows.features import build_features, materialize_period
from flows.ingest import ingest_period
from flows.train import fit, measure, measure_importance, predict
from flows.training_set import build_training_set, split_by_time
from flows.package import write_package
from services.package import load_package

settings = Settings(home=Path(sys.argv[1]), mlflow_port=1)
project = flows.project.open_project(settings)
problem = project.problem
until = problem.start + timedelta(days=28)
period = Period(problem.start, until)
landed = {manifest.status for manifest in ingest_period(project, period)}
materialize_period(project, build_features(project, period), period)
training = build_training_set(project, until)
fitted, holdout = split_by_time(training.rows, problem, timedelta(days=7), until)
estimator = fit(project.build_estimator(problem), fitted, problem)
holdout = holdout.with_columns(score=pl.Series(predict(estimator, holdout, problem)))
importance = measure_importance(estimator, holdout, problem)
metrics = measure(holdout[problem.target].to_numpy(), holdout["score"].to_numpy())
folder = settings.home / "model"
write_package(folder, problem, estimator, training, fitted, holdout, importance, metrics)
body = example_request(settings)
wire = services.schemas.build_wire(problem)
row = wire.to_row(msgspec.json.decode(msgspec.json.encode(body), type=wire.request))
stored = project.store.read_online([row])[0].values
request = problem.add_request_features(pl.DataFrame([row])).row(0, named=True)
inputs = {name: stored.get(name, request.get(name)) for name in problem.feature_names}
answer = load_package(folder, "1").predict([inputs])[0]
files = [module.__file__ for module in (feature_repo.problem, flows.project, services.schemas)]
print(json.dumps({"problem": problem.name, "landed": sorted(landed), "auc": metrics["auc"], "answer": answer,
                  "files": files}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which those files were replaced."""
    copy = tmp_path_factory.mktemp("own") / "project"
    for package in ("feature_repo", "expectations", "services", "flows", "infra"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "toy.py", copy / "tests")
    for name in DELETED:
        (copy / name).unlink()
    for name, text in REPLACED.items():
        (copy / name).write_text(text.lstrip(), encoding="utf-8")
    return copy


def test_the_files_replaced_here_are_those_that_the_document_names() -> None:
    """Not one more is needed than the reader is told of."""
    named = {cells[0].strip("`") for cells in list_rows(DOCUMENT) if cells[0].endswith(".py`")}
    assert named == REPLACED.keys() | KEPT
    assert all(f"`{name}`" in DOCUMENT.read_text(encoding="utf-8") for name in DELETED)


@pytest.mark.timeout(900)
def test_another_problem_lands_learns_and_answers(project: Path, tmp_path: Path) -> None:
    """With those files replaced, the same code takes in orders and predicts returns."""
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT, str(tmp_path / "home")),
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert all(file.startswith(str(project)) for file in told["files"])
    assert told["problem"] == "toy-returns"
    assert told["landed"] == ["landed"]
    assert told["auc"] > 0.6
    assert 0 < told["answer"] < 1


def test_nothing_else_speaks_of_flights() -> None:
    """No other module asks for a table or a column of the bundled problem."""
    from feature_repo.problem import PROBLEM

    own = (*REPLACED, *KEPT, *DELETED, *STORIES)
    words = {f'"{table.name}"' for table in PROBLEM.raw} | {'"carrier"', '"origin"', '"dest"', "nycflights"}
    words -= {'"schedule"'}  # a monitor is called so as well
    for package in ("feature_repo", "expectations", "services", "flows"):
        for module in (ROOT / package).rglob("*.py"):
            name = str(module.relative_to(ROOT))
            text = module.read_text(encoding="utf-8")
            assert name.startswith(own) or not [word for word in words if word in text], name
