"""The gate, as a stage: gathers the evidence on a candidate and records the verdict.

The decision itself is pure, in policy/gate.py.
"""

import tempfile
from pathlib import Path

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.clean_process import answer_in_clean_process
from flows.gate_evidence import describe_inputs, remake_values, score_rivals
from flows.policy.gate import Evidence, GateVerdict, judge
from flows.project import Project
from flows.retrain_records import MET
from flows.train import Candidate


def judge_candidate(project: Project, candidate: Candidate) -> GateVerdict:
    """Judge the candidate on rows that neither it nor its rival was fitted on, and tag the version."""
    problem = project.problem
    with tempfile.TemporaryDirectory() as folder:
        package = project.registry.download(candidate.version, Path(folder) / "candidate")
        latency, complaint = answer_in_clean_process(package)
        rivals = score_rivals(project, candidate, Path(folder))
        inputs = describe_inputs(problem, candidate, package, rivals)
    rows, zone = rivals.rows, problem.time_zone
    evidence = Evidence(
        outcomes=rows[problem.target].cast(pl.Float64).to_numpy(),
        candidate=rows["score"].to_numpy(),
        rivals=rivals.scores,
        days=rows[problem.decided_at].dt.convert_time_zone(zone).dt.date().cast(pl.Int64).to_numpy(),
        slices={c: rows[c].fill_null("missing").to_numpy().astype(str) for c in problem.slices},
        latency_ms=latency,
        complaint=complaint,
        inputs=inputs,
        remade=remake_values(project, rows, candidate.training.snapshot),
        best_auc=rivals.best_auc,
    )
    verdict = judge(evidence)
    _record(project, candidate, verdict, rivals.met)
    return verdict


def describe_verdict(version: int, verdict: GateVerdict) -> str:
    """Return the gate card: every check, as markdown."""
    lines = [f"# Gate: version {version} {'passed' if verdict.passed else 'was rejected'}", ""]
    lines += ["| check | holds | got | expected |", "|---|---|---|---|"]
    for check in verdict.checks:
        lines.append(
            f"| {check.name} | {'yes' if check.passed else '**no**'} | {check.got} | {check.expected} |"
        )
    return "\n".join(lines)


def _record(project: Project, candidate: Candidate, verdict: GateVerdict, met: int | None) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(project.settings.mlflow_url)
    client.log_text(candidate.run_id, describe_verdict(candidate.version, verdict), "gate.md")
    checks = [
        {"name": c.name, "passed": c.passed, "got": c.got, "expected": c.expected} for c in verdict.checks
    ]
    client.log_dict(candidate.run_id, {"passed": verdict.passed, "checks": checks}, "gate.json")
    # Before the verdict: one that stands without it could be used against another champion.
    project.registry.tag(candidate.version, MET, str(met or "none"))
    project.registry.tag(candidate.version, "perennial.gate", "passed" if verdict.passed else "rejected")
    project.registry.tag(candidate.version, "perennial.gate_reasons", "; ".join(verdict.reasons)[:4000])


@task(name="gate", cache_policy=NO_CACHE)
def gate(project: Project, candidate: Candidate) -> GateVerdict:
    """Judge a candidate and show the card."""
    from flows.summary import publish

    verdict = judge_candidate(project, candidate)
    publish("gate", describe_verdict(candidate.version, verdict), "Every check of the gate")
    return verdict
