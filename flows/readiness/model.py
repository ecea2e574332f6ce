"""The seven tests of model development."""

import io
import json
import subprocess
from typing import TYPE_CHECKING, Any

import httpx

from feature_repo.errors import NotEnoughData
from flows.policy.readiness import Finding
from flows.readiness.lookups import Question, kept, passed, tagged
from flows.readiness.records import ROOT
from flows.readiness.sources import Sources

if TYPE_CHECKING:
    import polars as pl

MODEL = "flows/model.py"
BACKTEST = "reports/backtest/backtest.json"  # of the home, as `perennial backtest` writes it
TRIED = "tuning.csv"  # an artifact of the run: each choice of parameters that was tried, and what it came to
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
    """Look whether what was tried before the parameters were chosen is kept with the model."""
    version = sources.champion
    place = sources.name_artifact(version, TRIED)
    try:
        told = len(sources.fetch(place).splitlines()) - 1
    except httpx.HTTPStatusError:
        advice = f"Search the parameters of the trees at each training, and log what each came to as {TRIED}."
        return Finding(False, f"the parameters of version {version} were set by hand", "", advice)
    return Finding(told > 1, f"version {version}: {told} choices were compared", place)


def find_backtest(sources: Sources) -> Finding:
    """Look for a backtest of policies: it shows what never retraining costs."""
    path = sources.settings.home / BACKTEST
    if not path.is_file():
        return Finding(False, f"no {path}", "", "Run .venv/bin/perennial backtest.")
    told = {worth["policy"]: worth["mean_auc"] for worth in json.loads(path.read_text())["policies"]}
    others = {name: auc for name, auc in told.items() if name != "never"}
    if "never" not in told or not others:
        advice = "Run .venv/bin/perennial backtest: of never and another policy."
        return Finding(False, f"it is a backtest of {', '.join(told)}", str(path), advice)
    best = max(others, key=lambda name: others[name])
    aucs = f"never retrained AUC {told['never']:.4f}, {best} {others[best]:.4f}"
    return Finding(True, f"a backtest of {len(told)} policies: {aucs}", str(path))


def find_simpler(sources: Sources) -> Finding:
    """The first model of those that served beat a linear one and the base rate."""
    for version in sorted(sources.versions):
        checks = sources.read_gate(version)["checks"] if "perennial.gate" in sources.versions[version] else []
        simple = [check for check in checks if "linear" in check["name"] or "base rate" in check["name"]]
        if simple and all(check["passed"] for check in simple):
            told = "; ".join(f"{check['name']}: {check['got']}" for check in simple)
            return Finding(True, f"version {version}: {told}", sources.name_artifact(version, "gate.md"))
    return Finding(False, "no version was held against a linear model", "", "Train the first model anew.")


def _read_slices(sources: Sources) -> tuple["pl.DataFrame", str]:
    import polars as pl

    place = sources.name_artifact(sources.champion, "slices.csv")
    table = pl.read_csv(io.StringIO(sources.fetch(place)))
    lacking = sorted({*sources.project.problem.slices} - {*table["slice"]})
    if lacking:
        raise NotEnoughData(
            f"slices of version {sources.champion}",
            got=f"none by {', '.join(lacking)}",
            expected="some of 100 rows or more",
            next_step="Train on more data.",
        )
    return table.sort("brier_skill"), place


def find_slices(sources: Sources) -> Finding:
    """Look whether the champion is better than the own rate of each slice."""
    table, place = _read_slices(sources)
    worst, bad = table.row(0, named=True), int((table["brier_skill"] <= 0).sum())
    least = f"{worst['slice']} {worst['value']}: {worst['brier_skill']:+.3f}"
    told = f"{len(table)} slices, {bad} no better than their own rate; the least skill, {least}"
    return Finding(not bad, told, place, "Look at those slices: they need features or rows of their own.")


def find_spread(sources: Sources) -> Finding:
    """Look whether the champion was measured on each group of those that it is about, small ones too."""
    table, place = _read_slices(sources)
    small = table.sort("rows").row(0, named=True)
    least = f"{small['slice']} {small['value']}: {small['rows']:.0f} rows"
    told = f"{len(table)} groups measured, the smallest {least}"
    return Finding(True, told, place)


def find_group_gate(sources: Sources) -> Finding:
    """Look whether candidates are held against the champion in each group, and refused if one suffers."""
    for version in sources.versions:
        if "perennial.gate" not in sources.versions[version]:
            continue
        card = sources.read_gate(version)
        checks = [check for check in card["checks"] if check["name"].startswith("not worse for")]
        if checks and (not card["passed"] or all(check["passed"] for check in checks)):
            told = f"version {version}: {len(checks)} groups compared, the gate {_tell_gate(card)}"
            return Finding(True, told, sources.name_artifact(version, "gate.md"))
    told = "no candidate was held against a champion by groups yet"
    return Finding(False, told, "", "Retrain once there is a champion.")


def _tell_gate(card: dict[str, Any]) -> str:
    return "passed it" if card["passed"] else "refused it"


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
    Question("All hyperparameters have been tuned", (find_tuning,), (kept("windows.csv"),)),
    Question(
        "The impact of model staleness is known",
        (find_backtest,),
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
            find_spread,
            find_group_gate,
            passed(
                "tests/unit/test_gate.py::test_a_gain_overall_does_not_excuse_a_slice_that_is_surely_worse"
            ),
        ),
        (find_spread,),
    ),
)
