"""What the monitor relies on in Evidently, against the real library."""

import math
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest

from flows.drift_reports import (
    REPORT_ROWS,
    REPORT_SEED,
    drop_reports,
    find_ids,
    keep_run,
    share_error,
    state_sampling,
)
from flows.local.stack_services import TELEMETRY_OFF, WORKSPACE
from flows.policy.drift import DriftColumn, judge_drift
from tests.ports import find_free_port

# Importing Evidently raises several, from itself and from what it imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def draw(rng, rows, shift=0.0):
    """A small frame with a number, a category with nulls, a score and a label."""
    x = rng.normal(shift, 1, rows)
    score = 1 / (1 + np.exp(-x))
    place = pd.Series(rng.choice(["EWR", "JFK"], rows)).where(rng.random(rows) < 0.9, None)
    late = (rng.random(rows) < score).astype(int)
    return pd.DataFrame({"x": x, "place": place, "score": score, "late": late})


@pytest.fixture(scope="module")
def snapshot():
    """One report on a shifted window, current first, as the monitor asks for it."""
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import ClassificationQuality

    rng = np.random.default_rng(1)
    definition = DataDefinition(
        numerical_columns=["x", "score"],
        categorical_columns=["place"],
        classification=[BinaryClassification(target="late", prediction_probas="score", pos_label=1)],
    )
    frames = draw(rng, 1_000, shift=1.0), draw(rng, 3_000)
    current, reference = (Dataset.from_pandas(f, data_definition=definition) for f in frames)
    drifts = [ValueDrift(column=name, method="psi", threshold=0.25) for name in ("x", "place", "score")]
    return Report([*drifts, ClassificationQuality()]).run(current, reference, name="window"), frames


def read(snapshot, kind, **config):
    """Return the value of the one metric of that kind and configuration."""
    metrics = [m for m in snapshot.dict()["metrics"] if m["config"]["type"].endswith(f":{kind}")]
    return next(float(m["value"]) for m in metrics if config.items() <= m["config"].items())


def test_drift_is_reported_by_column(snapshot):
    """The shifted column is over the limit, the steady one is not."""
    assert read(snapshot[0], "ValueDrift", column="x") > 0.25
    assert read(snapshot[0], "ValueDrift", column="place") < 0.1


def test_evidently_and_the_policy_see_the_same_shift(snapshot):
    """Two implementations with different bins agree on which columns moved."""
    current, reference = ({n: f[n].to_numpy() for n in ("x", "score")} for f in snapshot[1])
    ours = judge_drift(reference, current, [DriftColumn(n, "number") for n in ("x", "score")])
    for column in ours.columns:
        assert column.level == "large"
        assert read(snapshot[0], "ValueDrift", column=column.name) == pytest.approx(column.psi, rel=0.5)


def test_quality_is_that_of_scikit_learn(snapshot):
    """The report's AUC is computed on the current window, from scores and labels."""
    from sklearn.metrics import roc_auc_score

    current = snapshot[1][0]
    assert read(snapshot[0], "RocAuc") == pytest.approx(roc_auc_score(current["late"], current["score"]))


def test_the_report_is_saved_as_a_page_and_as_numbers(snapshot, tmp_path):
    """HTML stands alone; JSON carries every metric."""
    snapshot[0].save_html(str(tmp_path / "report.html"))
    snapshot[0].save_json(str(tmp_path / "report.json"))
    assert "<html" in (tmp_path / "report.html").read_text()[:200]
    assert "ValueDrift" in (tmp_path / "report.json").read_text()


def key_of(week):
    """Return the name of a week's verdict, as the monitor gives it."""
    since = datetime(2013, 1, 1, tzinfo=UTC) + week * timedelta(days=7)
    return f"{since:%Y%m%dT%H%M}-{since + timedelta(days=7):%Y%m%dT%H%M}-v1"


def test_a_report_made_again_replaces_its_run(snapshot, tmp_path):
    """One run a window, under an id that follows from it; a project keeps the name that people gave it."""
    from evidently.ui.workspace import Workspace

    keep_run(tmp_path / "w", "toy", key_of(0), snapshot[0])
    project, first = find_ids("toy", key_of(0))
    kept = Workspace.create(str(tmp_path / "w")).get_project(project)
    assert kept.name == "toy"
    kept.name = "ours"
    kept.save()
    for week in (0, 1, 1):
        keep_run(tmp_path / "w", "toy", key_of(week), snapshot[0])
    workspace = Workspace.create(str(tmp_path / "w"))
    assert [p.name for p in workspace.list_projects()] == ["ours"]
    runs = set(workspace.list_runs(project))
    assert runs == {uuid.UUID(str(find_ids("toy", key_of(week))[1])) for week in (0, 1)}
    assert workspace.get_run(project, first).name == "window"
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_old_reports_are_dropped_with_their_runs(snapshot, tmp_path):
    """By the windows' own time, the newest stays; what was deleted halfway is found again."""
    for week in (0, 9, 10):
        for suffix in ("html", "json"):
            (tmp_path / f"{key_of(week)}.{suffix}").write_text("a report")
        keep_run(tmp_path / WORKSPACE, "toy", key_of(week), snapshot[0])
    (tmp_path / "notes.json").write_text("not a report")
    (tmp_path / f"{key_of(0)}.html").unlink()
    assert drop_reports(tmp_path, "toy", keep_days=30) == [key_of(0)]
    assert drop_reports(tmp_path, "toy", keep_days=30) == []
    kept = {f"{key_of(week)}.{suffix}" for week in (9, 10) for suffix in ("html", "json")}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "notes.json", WORKSPACE}
    project, gone = find_ids("toy", key_of(0))
    runs = {path.stem for path in (tmp_path / WORKSPACE / str(project) / "snapshots").iterdir()}
    assert len(runs) == 2
    assert str(gone) not in runs


def test_the_stated_error_of_a_share_is_that_of_repeated_draws():
    """The standard deviation over many draws of one window, where it is greatest: a share of one half."""
    window = pl.DataFrame({"late": [0.0, 1.0] * 10_000})
    shares = [window.sample(REPORT_ROWS, seed=REPORT_SEED + n)["late"].mean() for n in range(400)]
    assert statistics.stdev(shares) == pytest.approx(share_error(REPORT_ROWS, len(window)), rel=0.15)
    assert share_error(len(window), len(window)) == 0.0


def test_the_stated_psi_by_chance_is_what_evidently_finds_without_drift():
    """Mean over many pairs of draws of one population, by Evidently's own PSI, on evenly filled bins."""
    from evidently.legacy.calculations.stattests import psi_stat_test
    from evidently.legacy.core import ColumnType

    told = state_sampling(20_000, 20_000)
    chance, spread = (float(part.split()[-1]) for part in told["PSI by chance"].split(", "))
    rng, found = np.random.default_rng(3), []
    for _ in range(150):
        sides = (pd.Series(rng.uniform(0, 1, REPORT_ROWS)) for _ in range(2))
        found.append(psi_stat_test.func(*sides, feature_type=ColumnType.Numerical, threshold=0.1)[0])
    assert statistics.mean(found) == pytest.approx(chance, abs=4 * spread / math.sqrt(len(found)))
    assert statistics.stdev(found) == pytest.approx(spread, rel=0.25)


@pytest.mark.slow
def test_the_ui_shows_a_report_as_soon_as_it_is_kept(snapshot, tmp_path):
    """Started on a folder that is not there yet, as in the stack; a report made again is read again."""
    port = find_free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--workspace", str(tmp_path / "w"))
    environment = {**os.environ, **TELEMETRY_OFF}
    command = (sys.executable, "-m", "evidently.cli", "ui", *options)
    ui = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        try:
            assert await_answer(client, "/api/version", lambda answer: "Evidently" in answer.text)
            for week in (0, 1, 1):
                keep_run(tmp_path / "w", "toy", key_of(week), snapshot[0])
                project, run = find_ids("toy", key_of(week))
                listed = f"/api/projects/{project}/reports"
                assert await_answer(client, listed, lambda a, run=run: str(run) in a.text)
            assert len(client.get(listed).json()) == 2
            shown = client.get(f"/api/projects/{project}/{run}/data")
            assert "psi" in shown.text.lower()
            assert client.get(f"/projects/{project}/reports/{run}").status_code == 200
        finally:
            ui.send_signal(signal.SIGTERM)
            ui.wait(30)


def await_answer(client, path, holds, seconds=120):
    """Ask until the answer is as wanted; tell whether it came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = client.get(path)
            if answer.status_code == 200 and holds(answer):
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    return False
