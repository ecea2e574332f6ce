"""The seven tests of model development."""

import io
import json
import subprocess

from flows.policy.readiness import Finding
from flows.readiness.lookups import Question, gate_held, kept, passed, tagged, written
from flows.readiness.records import ROOT
from flows.readiness.sources import Sources

MODEL = "flows/model.py"
STALENESS = "backtest"  # folder of the home that `perennial backtest` writes its results into
TRIED = ("tuning.json", "window.json", "windows.json")  # artifacts that say what was tried before the choice
LIMIT = 0.02  # AUC that online may fall short of offline beyond its interval


def _ask_git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def find_commit(sources: Sources) -> Finding:
    """The champion was made by code that is in the repository as it was."""
    version = sources.champion
    code = sources.versions[version].get("perennial.code", "")
    if not code or code.endswith("+changes") or not _ask_git("cat-file", "-t", code):
        told = f"version {version} was made by {code or 'unknown code'}, which is no commit here"
        return Finding(False, told, "", "Commit, then train again.")
    return Finding(True, f"version {version} was made by commit {code[:10]}", f"git show {code[:10]}:{MODEL}")


def find_reviewer(sources: Sources) -> Finding:
    """Somebody is named who reviewed the last change of the model's specification."""
    told = _ask_git(
        "log", "-1", "--format=%h %(trailers:key=Reviewed-by,valueonly,separator=%x2C )", "--", MODEL
    )
    commit, _, reviewer = told.partition(" ")
    if not reviewer.strip():
        found = f"the last commit of {MODEL} ({commit or 'none'}) names no reviewer"
        return Finding(False, found, "", "Have it reviewed; say so in the commit: Reviewed-by: NAME.")
    return Finding(True, f"{MODEL} was reviewed by {reviewer.strip()}", f"git show {commit}")


def find_correlation(sources: Sources) -> Finding:
    """What was measured when training is found again on what was served, where labels have come."""
    import polars as pl

    verdicts = sources.table("verdicts")
    if not len(verdicts) or "auc_high" not in verdicts.columns:
        return Finding(False, "no verdict on labels", "", "Run the daily loop until labels have matured.")
    mine = verdicts.filter(pl.col("auc").is_not_null()).sort("window_until")
    if not len(mine):
        return Finding(False, "no verdict on labels", "", "Run the daily loop until labels have matured.")
    last = mine.row(-1, named=True)
    offline = float(json.loads(_read_contract(sources, last["model_version"]))["metrics"]["auc"])
    told = (
        f"version {last['model_version']}: AUC {offline:.3f} when trained, {last['auc']:.3f} "
        f"({last['auc_low']:.3f} to {last['auc_high']:.3f}) served until {last['window_until']:%Y-%m-%d}"
    )
    holds = last["auc_high"] >= offline - LIMIT
    return Finding(
        holds, told, str(sources.settings.home / "lake" / "verdicts"), "The model decayed: retrain."
    )


def _read_contract(sources: Sources, version: str) -> str:
    return (sources.project.package(int(version)) / "contract.json").read_text()


def find_tuning(sources: Sources) -> Finding:
    """What was tried before the parameters were chosen is kept with the model."""
    import httpx

    for name in TRIED:
        place = sources.name_artifact(sources.champion, name)
        if httpx.get(place, timeout=5.0).status_code == 200:
            return Finding(True, f"version {sources.champion} keeps what was tried in {name}", place)
    told = f"version {sources.champion} keeps no {' or '.join(TRIED)}"
    return Finding(False, told, "", "Search the parameters, and log what each came to in the training run.")


def find_backtest(sources: Sources) -> Finding:
    """A backtest of policies shows what never retraining costs."""
    folder = sources.settings.home / STALENESS
    found = sorted(folder.rglob("*.json"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    if not found:
        return Finding(False, f"no backtest under {folder}", "", "Run .venv/bin/perennial backtest.")
    return Finding(True, "a backtest compares never retraining with other policies", str(found[-1]))


def find_simpler(sources: Sources) -> Finding:
    """The first model of those that served beat a linear one and the base rate."""
    for version in sorted(sources.versions):
        checks = sources.read_gate(version)["checks"] if "perennial.gate" in sources.versions[version] else []
        simple = [check for check in checks if "linear" in check["name"] or "base rate" in check["name"]]
        if simple and all(check["passed"] for check in simple):
            told = "; ".join(f"{check['name']}: {check['got']}" for check in simple)
            return Finding(True, f"version {version}: {told}", sources.name_artifact(version, "gate.md"))
    return Finding(False, "no version was held against a linear model", "", "Train the first model anew.")


def find_slices(sources: Sources) -> Finding:
    """Quality of each slice of the champion, each better than knowing the slice's own rate."""
    import polars as pl

    place = sources.name_artifact(sources.champion, "slices.csv")
    table = pl.read_csv(io.StringIO(sources.fetch(place)))
    lacking = sorted({*sources.project.problem.slices} - {*table["slice"]})
    if lacking:
        return Finding(False, f"no slices by {', '.join(lacking)}", "", "Train on more data.")
    bad = table.filter(pl.col("brier_skill") <= 0)
    worst = table.sort("brier_skill").row(0, named=True)
    least = f"{worst['slice']} {worst['value']}: {worst['brier_skill']:+.3f}"
    told = f"{len(table)} slices; the least skill, {least}"
    if len(bad):
        told += f"; {len(bad)} no better than their own rate"
    return Finding(
        not len(bad), told, place, "Look at those slices: they need features or rows of their own."
    )


QUESTIONS = (
    Question(
        "Every model specification is reviewed and checked in", (find_commit, find_reviewer), (find_commit,)
    ),
    Question(
        "Offline and online metrics correlate",
        (
            find_correlation,
            passed("tests/flows/test_monitor.py::test_a_weeks_verdict_holds_its_estimate_against_the_labels"),
        ),
        (find_correlation,),
    ),
    Question(
        "All hyperparameters have been tuned",
        (find_tuning,),
        (written("infra/decisions/0022-readiness.md", "learning_rate", "max_leaf_nodes"),),
    ),
    Question(
        "The impact of model staleness is known",
        (find_backtest,),
        (written("infra/decisions/0004-when-to-retrain.md", "frozen"),),
    ),
    Question("A simpler model is not better", (find_simpler, passed("tests/unit/test_gate.py"))),
    Question(
        "Model quality is sufficient on all important data slices",
        (tagged("perennial.gate", "passed"), find_slices, passed("tests/unit/test_gate.py")),
        (kept("slices.csv"),),
    ),
    Question(
        "The model has been tested for considerations of inclusion",
        (
            find_slices,
            gate_held("not worse for"),
            passed(
                "tests/unit/test_gate.py::test_a_gain_overall_does_not_excuse_a_slice_that_is_surely_worse"
            ),
        ),
        (kept("slices.csv"), written("infra/decisions/0022-readiness.md", "inclusion")),
    ),
)
