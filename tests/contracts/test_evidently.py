"""What the monitor relies on in Evidently, against the real library."""

import numpy as np
import pandas as pd
import pytest

from flows.policy.drift import DriftColumn, judge_drift

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
