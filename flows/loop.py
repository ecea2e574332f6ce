"""The loop: one logical day, end to end, and the same for a stretch of past days."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger

from feature_repo.contract import Period
from flows.announce import announce
from flows.corrections import correct, recheck
from flows.data_quality import publish_quality
from flows.features import build, build_features, find_unbuilt, materialize, materialize_period
from flows.ingest import ingest, ingest_period, landed_until
from flows.label import label
from flows.lineage import emit_features, emit_ingest, emit_label, emit_monitor
from flows.manifests import LANDED, STOPPED, UNCHANGED, Manifest
from flows.monitor import monitor_step
from flows.progress import report
from flows.project import Project, open_project
from flows.releasing.look import look_at_rollout
from flows.releasing.passed import release_waiting_step
from flows.releasing.release import reconcile_previous
from flows.summary import publish_manifests, publish_table

Progress = Callable[[int, int], None]


@flow(name="daily-loop")
def daily_loop(day: date | None = None) -> dict[str, Any]:
    """Run one day: corrections, ingest, validate, features, online store, labels, monitor.

    Default: the next day that has not landed; while that lasts, the day before, which landed hour by hour.
    """
    project = open_project()
    period = project.day(day or choose_day(project, datetime.now(UTC)))
    correct(project, recheck(project, period.since, project.settings.recheck_days))
    manifests = ingest(project, period)
    unbuilt = find_unbuilt(project, period)
    materialize(project, build(project, unbuilt), unbuilt)
    emit_features(project, unbuilt)
    publish_manifests("daily-loop", manifests, project.settings)
    publish_quality(project)
    return {"day": str(period), **close_day(project, reach_back(period, manifests))}


def choose_day(project: Project, now: datetime) -> date:
    """Return the day that is to be run: the next that has not landed, if it is over."""
    day = project.local_day(landed_until(project))
    return day if project.day(day).until <= now else day - timedelta(days=1)


def reach_back(period: Period, manifests: Sequence[Manifest]) -> Period:
    """Return the period, begun earlier if batches landed in it that earlier days had to do without.

    Outcomes that came late would else find no answer: labels are joined by when they became known.
    """
    landed = (manifest.since for manifest in manifests if manifest.status == LANDED)
    return Period(min((period.since, *landed)), period.until)


def close_day(project: Project, period: Period) -> dict[str, Any]:
    """Join the outcomes that the day brought, and judge every window that is complete by its end."""
    counts = label(project.lake, project.journal, project.problem, period)
    emit_label(project, period)
    publish_table("labels", [counts], "Outcomes that became known, and what became of each")
    reconcile_previous(project)
    release_waiting_step(project)
    champion = project.registry.aliases().get("champion")
    if champion is None:
        get_run_logger().info("no champion yet: nothing to monitor")
        return {"labels": counts, "retrain_asked": False}
    findings = monitor_step(
        project.lake,
        project.journal,
        project.problem,
        project.package(champion),
        project.settings.home / "reports",
        version=str(champion),
        until=period.until,
    )
    announce(project)
    look_at_rollout(project, period.until)
    emit_monitor(project, champion, [verdict.window for verdict in findings.verdicts])
    return {"labels": counts, "retrain_asked": findings.asked}


@flow(name="backfill")
def backfill(since: date, until: date) -> list[dict[str, Any]]:
    """Take in the days from `since` up to and without `until`, and compute their features."""
    project = open_project()
    manifests = backfill_days(project, since, until, lambda done, total: report(done, total, "days taken in"))
    publish_manifests("backfill", [m for m in manifests if m.status != UNCHANGED], project.settings)
    publish_quality(project)
    return [asdict(manifest) for manifest in manifests if manifest.status == STOPPED]


def backfill_days(project: Project, since: date, until: date, progress: Progress) -> list[Manifest]:
    """Land each day as its own batches, then compute the features of the whole stretch in one go."""
    days = [since + timedelta(days=i) for i in range((until - since).days)]
    manifests = []
    for done, day in enumerate(days):
        progress(done, len(days))
        landed = ingest_period(project, project.day(day))
        emit_ingest(project, landed)
        manifests += landed
    if days:
        stretch = Period(project.day(days[0]).since, project.day(days[-1]).until)
        materialize_period(project, build_features(project, stretch), stretch)
        emit_features(project, stretch)
        progress(len(days), len(days))
    return manifests
