"""What a run of the monitor tells the world: links to the newest report, and messages about incidents."""

from collections.abc import Mapping

from flows.channels import build_channels
from flows.drift_reports import find_report
from flows.notify import Told, tell_incidents
from flows.policy.incident import JudgedWindow
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
    """Link the newest report from this run and from its model version; return its address, or nothing."""
    table = project.lake.read(VERDICTS)
    table = table.filter(table["report"] != "") if table.width else table
    if not len(table):
        return ""
    key, version = table.sort("window_until", "asof").select("key", "model_version").row(-1)
    url = find_report(project.settings, project.problem.name, key)
    _publish_link(f"report-{project.problem.name}", url, f"Drift report of {key}")
    if version.isdigit() and project.registry.read_version_tag(int(version), REPORT_TAG) != url:
        project.registry.tag(int(version), REPORT_TAG, url)
    return url


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
