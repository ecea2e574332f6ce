"""What a run of the monitor tells the world: links to the newest report, and messages about incidents."""

from collections.abc import Mapping
from typing import Any

from feature_repo.lake import Lake
from flows.channels import build_channels
from flows.drift_reports import find_report
from flows.notify import Told, tell_incidents
from flows.policy.incident import JudgedWindow
from flows.policy.trigger import DAY, WEEK, name_length
from flows.project import Project
from flows.verdicts import TABLE as VERDICTS

REPORT_TAG = "perennial.report"  # of a model version: where its newest drift report is read


def announce(project: Project) -> Told:
    """Link the newest report from the run and the model version; send what incidents give cause for.

    Works from the verdicts in the lake, not from what this run found: what a killed run left undone is
    done by the next one.
    """
    link_reports(project)
    settings = project.settings
    return tell_incidents(
        project.lake,
        project.problem.name,
        build_channels(settings),
        lambda window: link_window(project, window),
        settings.home,
    )


def link_reports(project: Project) -> str:
    """Link the newest reports from this run, and a week's from its model version; return that address."""
    linked, name = {}, project.problem.name
    for kind, row in _find_newest(project.lake).items():
        linked[kind] = find_report(project.settings, name, row["key"])
        suffix = "" if kind == WEEK else f"-{kind}"
        _publish_link(f"report-{name}{suffix}", linked[kind], f"Drift report of {row['key']}")
        version = row["model_version"]
        if kind != WEEK or not version.isdigit():
            continue
        if project.registry.read_version_tag(int(version), REPORT_TAG) != linked[kind]:
            project.registry.tag(int(version), REPORT_TAG, linked[kind])
    return linked.get(WEEK, "")


def _find_newest(lake: Lake) -> dict[str, dict[str, Any]]:
    """Return the newest verdict that has a report, of a week and of a day."""
    table = lake.read(VERDICTS)
    drawn = table.filter(table["report"] != "").sort("window_until", "asof") if table.width else table
    newest = {
        name_length(row["window_until"] - row["window_since"]): row for row in drawn.iter_rows(named=True)
    }
    return {kind: newest[kind] for kind in (WEEK, DAY) if kind in newest}


def link_window(project: Project, window: JudgedWindow) -> Mapping[str, str]:
    """Return where a window's report, this run and the model version are looked at."""
    from prefect.runtime import flow_run

    settings, name = project.settings, project.problem.name
    page = settings.home / "reports" / f"{window.key}.html"
    return {
        "Evidently report": find_report(settings, name, window.key) if page.exists() else "",
        "Prefect run": f"{settings.prefect_url}/runs/flow-run/{flow_run.id}" if flow_run.id else "",
        "MLflow version": f"{settings.mlflow_url}/#/models/{name}/versions/{window.version}",
    }


def _publish_link(key: str, url: str, text: str) -> None:
    from prefect.artifacts import create_link_artifact
    from prefect.context import get_run_context
    from prefect.exceptions import MissingContextError

    try:
        get_run_context()
    except MissingContextError:
        return  # outside a run there is nothing to show it beside
    create_link_artifact(key=key, link=url, link_text=text, description=text)
