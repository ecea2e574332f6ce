"""Proposals: a version waits, as a suspended run, until a person says yes or no; then it is released or not.

The run's process ends while it waits. The answer comes from the Prefect UI or from `perennial approve`, and
names the version: a yes to one version is no yes to another.
"""

import time
from collections.abc import Callable
from typing import Any

from prefect import flow, get_run_logger, suspend_flow_run
from prefect.input import RunInput

from feature_repo.errors import GateClosed, PerennialError
from flows.project import Project, open_project
from flows.releasing.passed import decline
from flows.releasing.release import promote_version, reconcile_previous, show_move
from flows.releasing.rollout import challenge
from services.routing import Stage

WEEK = 7 * 86_400
FLOW = "propose"


class Decision(RunInput):
    """What a person says to a proposal."""

    version: int
    approve: bool
    who: str = "a person, in Prefect"
    reason: str = ""


@flow(name=FLOW)
def propose(version: int, reason: str = "by hand", stage: Stage | None = None) -> str:
    """Ask a person whether a version is to be released: as the champion, or beside it in a stage."""
    project = open_project()
    reconcile_previous(project)
    champion, name = project.registry.aliases().get("champion"), project.problem.name
    told = (
        f"**Version {version} instead of {champion or 'none'}?** {reason}\n\n"
        f"The gate: {project.registry.read_version_tag(version, 'perennial.gate') or 'no verdict'}. "
        f"[Version {version}]({project.settings.mlflow_url}/#/models/{name}/versions/{version})"
    )
    asked = Decision.with_initial_data(description=told, version=version, approve=False)
    answer: Any = suspend_flow_run(wait_for_input=asked, timeout=WEEK, key=f"decision-{version}")
    text = decide(project, version, reason, answer, stage)
    get_run_logger().info(text)
    return text


def decide(project: Project, version: int, reason: str, answer: Any, stage: Stage | None = None) -> str:
    """Do what the person said. Raises GateClosed if it was said of another version."""
    if answer.version != version:
        raise GateClosed(
            f"proposal of version {version}",
            got=f"an answer about version {answer.version}",
            expected=f"one about version {version}",
            next_step="Propose it again.",
        )
    why = f"{reason}; {answer.reason}" if answer.reason else reason
    if not answer.approve:
        decline(project, version, f"turned down by {answer.who}: {why}")
        return f"version {version} was turned down by {answer.who}: {why}"
    if stage:
        challenge(project, version, why, stage=stage, who=answer.who)
        return f"version {version} stands beside the champion in {stage}, approved by {answer.who}"
    return show_move(promote_version(project, version, why, by_hand=True, who=answer.who))


def answer_proposal(
    client: Any,
    run_id: str,
    decision: Decision,
    wait: Callable[[float], None] = time.sleep,
    patience: float = 20.0,
) -> str:
    """Answer a suspended proposal; return the run's name once it was heard.

    Raises GateClosed if the run is no proposal, waits for nothing, is of another version, or did not hear.
    """
    run = client.get(f"/flow_runs/{run_id}").raise_for_status().json()
    proposed = run["parameters"].get("version")
    if run["state_type"] != "PAUSED" or client.get(f"/flows/{run['flow_id']}").json()["name"] != FLOW:
        raise _refuse(run_id, f"{run['name']}, which is {run['state_name']}", "a proposal that waits")
    if proposed != decision.version:
        raise _refuse(run_id, f"a proposal of version {proposed}", f"one of version {decision.version}")
    body = {"run_input": decision.model_dump(mode="json")}
    told = client.post(f"/flow_runs/{run_id}/resume", json=body).raise_for_status().json()
    if told.get("status") != "ACCEPT":
        raise _refuse(run_id, f"{told.get('status')}: {told.get('details')}", "an answer that is taken")
    waited = 0.0
    # Prefect answers 200 to what it does not take: only the run's state tells whether it was heard.
    while client.get(f"/flow_runs/{run_id}").raise_for_status().json()["state_type"] == "PAUSED":
        if waited >= patience:
            raise _refuse(run_id, "a run that still waits", "one that heard the answer")
        wait(0.5)
        waited += 0.5
    return str(run["name"])


def find_proposals(client: Any) -> list[dict[str, Any]]:
    """Return the proposals that wait: id, name, version, reason."""
    asked = {"flows": {"name": {"any_": [FLOW]}}, "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    runs = client.post("/flow_runs/filter", json=asked).raise_for_status().json()
    return [{"id": r["id"], "name": r["name"], **r["parameters"]} for r in runs]


def _refuse(run_id: str, got: str, expected: str) -> PerennialError:
    step = "`perennial approve` without an id lists the proposals that wait."
    return GateClosed(f"answer to {run_id}", got=got, expected=expected, next_step=step)
