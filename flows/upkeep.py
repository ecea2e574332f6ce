"""Upkeep of the lake as a flow: few large files of many small ones, and nothing kept that nobody needs."""

from dataclasses import asdict
from typing import Any

from prefect import flow, get_run_logger

from flows.drift_reports import drop_reports
from flows.project import open_project
from flows.retention import KEEP_DAYS, find_named_snapshots, keep_lake
from flows.summary import publish_table


@flow(name="upkeep")
def upkeep(keep_days: int = KEEP_DAYS) -> dict[str, Any]:
    """Compact the lake; delete what no model, run or answer of `keep_days` needs, and old reports."""
    project = open_project()
    done = keep_lake(project, find_named_snapshots, keep_days)
    dropped = drop_reports(project.settings.home / "reports", project.problem.name)
    publish_table("upkeep", [asdict(one) for one in done.tables], "Files and versions of each table")
    if done.not_vacuumed:
        get_run_logger().warning(done.not_vacuumed)
    return {**asdict(done), "reports_dropped": dropped}
