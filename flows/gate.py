"""The gate, as a stage: gathers the evidence on a candidate and records the verdict.

The decision itself is pure, in policy/gate.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Feature, Problem
from feature_repo.fingerprint import REQUEST
from feature_repo.lake import Snapshot
from flows.model import build_linear
from flows.policy.gate import Evidence, GateVerdict, judge
from flows.project import Project
from flows.train import Candidate, fit, predict
from flows.training_set import read_at, read_features

TIME_LIMIT = 120  # seconds for a clean process to load the version and answer


def judge_candidate(project: Project, candidate: Candidate) -> GateVerdict:
    """Judge the candidate on rows that neither it nor its rival was fitted on, and tag the version."""
    with tempfile.TemporaryDirectory() as folder:
        package = project.registry.download(candidate.version, Path(folder) / "candidate")
        latency, complaint = answer_in_clean_process(package)
        rows, rivals = _score_rivals(project, candidate, Path(folder))
    problem = project.problem
    zone = problem.time_zone
    evidence = Evidence(
        outcomes=rows[problem.target].cast(pl.Float64).to_numpy(),
        candidate=rows["score"].to_numpy(),
        rivals=rivals,
        days=rows[problem.decided_at].dt.convert_time_zone(zone).dt.date().cast(pl.Int64).to_numpy(),
        slices={c: rows[c].fill_null("missing").to_numpy().astype(str) for c in problem.slices},
        latency_ms=latency,
        complaint=complaint,
    )
    verdict = judge(evidence)
    _record(project, candidate, verdict)
    return verdict


def answer_in_clean_process(package: Path) -> tuple[float | None, str]:
    """Run the version's self-test in a fresh interpreter; return (95th percentile in ms, complaint)."""
    command = [sys.executable, "-m", "services.self_test", str(package)]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as the service runs
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIME_LIMIT} s"
    if done.returncode != 0:
        return None, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
    return float(json.loads(done.stdout)["p95_ms"]), ""


def describe_verdict(version: int, verdict: GateVerdict) -> str:
    """Return the gate card: every check, as markdown."""
    lines = [f"# Gate: version {version} {'passed' if verdict.passed else 'was rejected'}", ""]
    lines += ["| check | holds | got | expected |", "|---|---|---|---|"]
    for check in verdict.checks:
        lines.append(
            f"| {check.name} | {'yes' if check.passed else '**no**'} | {check.got} | {check.expected} |"
        )
    return "\n".join(lines)


def _score_rivals(
    project: Project, candidate: Candidate, folder: Path
) -> tuple[pl.DataFrame, dict[str, Any]]:
    problem, rows = project.problem, candidate.holdout
    champion = project.registry.aliases().get("champion")
    if champion is None:
        base = float(candidate.fitted[problem.target].cast(pl.Float64).mean())  # type: ignore[arg-type]
        linear = fit(build_linear(problem), candidate.fitted, problem)
        return rows, {"base rate": np.full(len(rows), base), "linear model": predict(linear, rows, problem)}
    from services.package import load_package

    package = load_package(project.registry.download(champion, folder / "champion"))
    # Only rows decided after the last one that the champion was fitted on.
    learned = datetime.fromisoformat(package.contract["trained_until"])
    rows = rows.filter(pl.col(problem.decided_at) > learned)
    if not len(rows):
        return rows, {}
    inputs = tuple(Feature(f["name"], f["kind"], f["source"]) for f in package.contract["features"])
    taken = replace(problem, features=inputs, feature_service=package.contract["feature_service"])
    known = _add_lacking(project, rows, taken, candidate.training.snapshot)
    return rows, {"champion": predict(package.estimator, known, taken)}


def _add_lacking(project: Project, rows: pl.DataFrame, taken: Problem, snapshot: Snapshot) -> pl.DataFrame:
    """Return the rows with the inputs of a model of another feature service that they lack."""
    lacking = set(taken.feature_names) - set(rows.columns)
    if not lacking:
        return rows
    problem, entity = project.problem, project.problem.entity
    raw = {table.name: read_at(project.lake, table.name, snapshot) for table in problem.raw}
    asked = problem.build_requests(raw).join(rows.select(entity), on=entity)
    # What the request says is computed by today's function; the rest is in the tables of the model's time.
    request = [f for f in problem.features if f.source == REQUEST]
    stored = [f for f in taken.features if f.source != REQUEST]
    older = replace(project, problem=replace(taken, features=(*request, *stored)))
    for found in (read_features(older, asked, snapshot), problem.add_request_features(asked)):
        names = [name for name in found.columns if name in lacking and name not in rows.columns]
        rows = rows.join(found.select(entity, *names), on=entity, how="left", maintain_order="left")
    return rows


def _record(project: Project, candidate: Candidate, verdict: GateVerdict) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(project.settings.mlflow_url)
    client.log_text(candidate.run_id, describe_verdict(candidate.version, verdict), "gate.md")
    checks = [
        {"name": c.name, "passed": c.passed, "got": c.got, "expected": c.expected} for c in verdict.checks
    ]
    client.log_dict(candidate.run_id, {"passed": verdict.passed, "checks": checks}, "gate.json")
    project.registry.tag(candidate.version, "perennial.gate", "passed" if verdict.passed else "rejected")
    project.registry.tag(candidate.version, "perennial.gate_reasons", "; ".join(verdict.reasons)[:4000])


@task(name="gate", cache_policy=NO_CACHE)
def gate(project: Project, candidate: Candidate) -> GateVerdict:
    """Judge a candidate and show the card."""
    from flows.summary import publish

    verdict = judge_candidate(project, candidate)
    publish("gate", describe_verdict(candidate.version, verdict), "Every check of the gate")
    return verdict
