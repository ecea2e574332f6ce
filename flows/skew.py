"""The skew probe: journalled answers' features made again from the lake and from raw rows, and compared."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from prefect import flow, get_run_logger

from feature_repo.contract import Period
from feature_repo.lake import write_atomically
from flows.ingest import landed_until
from flows.policy.skew import SkewVerdict, find_wrong, judge_skew
from flows.project import Project, open_project
from flows.skew_causes import find_causes
from flows.skew_values import Asked, build_columns, read_requests
from flows.summary import publish_table
from services.journal import Prediction
from services.wire import Wire

TABLE = "skew"
METRICS = Path("metrics") / "skew.prom"
AT_MOST = 100_000  # answers of a period that are looked at, picked at random: some 3,400,000 values
INSTANT = pl.Datetime("us", "UTC")
SCHEMA: Mapping[str, Any] = {
    "since": INSTANT,
    "until": INSTANT,
    "feature": pl.String,
    "answers": pl.Int64,
    **dict.fromkeys(("compared", "mismatched"), pl.Int64),
    "rate": pl.Float64,
    **dict.fromkeys(("withheld", "lacking"), pl.Int64),
    "worst": pl.Float64,
    **dict.fromkeys(("cause", "words"), pl.String),
    "share": pl.Float64,
    "examples": pl.String,
}


@dataclass(frozen=True)
class SkewReport:
    """What the probe found in a period, which ends where what has landed ends.

    unreadable  answers whose journalled request is none that the service would take today
    """

    period: Period
    answers: int
    unreadable: int
    verdict: SkewVerdict


def probe_skew(project: Project, wire: Wire, period: Period, at_most: int = AT_MOST) -> SkewReport:
    """Compare what answers asked for in the period used with what their features are.

    Answers for instants that have not landed yet are left out. Raises NotEnoughData if none is left.
    """
    until = min(period.until, landed_until(project))
    reached = Period(min(period.since, until), until)
    asked, verdict = compare_answers(project, wire, project.journal.sample_predictions(reached, at_most))
    return SkewReport(reached, len(asked.answers), asked.unreadable, verdict)


def compare_answers(project: Project, wire: Wire, answers: Sequence[Prediction]) -> tuple[Asked, SkewVerdict]:
    """Compare the features of journalled answers, whatever has landed since, and look for causes."""
    asked = read_requests(project, wire, answers)
    columns = build_columns(project, asked)
    skewed = any(find_wrong(column).any() for column in columns)
    causes = find_causes(project, asked, columns) if skewed else {}
    return asked, judge_skew(columns, causes)


def keep_report(project: Project, report: SkewReport) -> None:
    """Put the report into the lake's table `skew`, in the place of one of the very same period, and its
    rates where Prometheus reads them.
    """
    since, until = report.period.since, report.period.until
    begun = Period(since, since + timedelta(microseconds=1))
    frames = [pl.DataFrame(to_rows(report), schema=SCHEMA)]
    if project.lake.has(TABLE):
        others = project.lake.read(TABLE, begun, "since").filter(pl.col("until") != until)
        frames.append(others.select(list(SCHEMA)))
    project.lake.replace(TABLE, pl.concat(frames), begun, "since")
    write_metrics(project, report)


def read_skew(project: Project) -> pl.DataFrame:
    """Return every kept report, one row a period and feature, oldest first."""
    frame = project.lake.read(TABLE)
    return frame.sort("since", "until", "feature") if frame.width else pl.DataFrame(schema=SCHEMA)


def to_rows(report: SkewReport) -> list[dict[str, Any]]:
    """Return one row a feature."""
    return [
        {
            "since": report.period.since,
            "until": report.period.until,
            "feature": one.name,
            "answers": report.answers,
            "compared": one.compared,
            "mismatched": one.mismatched,
            "rate": one.rate,
            "withheld": one.withheld,
            "lacking": one.lacking,
            "worst": one.worst,
            "cause": one.cause.name if one.cause else "",
            "words": one.cause.words if one.cause else "",
            "share": one.cause.share if one.cause else None,
            "examples": "; ".join(one.examples),
        }
        for one in report.verdict.features
    ]


def write_metrics(project: Project, report: SkewReport) -> Path:
    """Write the rates as Prometheus metrics, to be served at /metrics of the reports."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    into = CollectorRegistry()
    label = ("feature",)
    rate = Gauge("perennial_skew_rate", "Share of a feature's values that are skewed.", label, registry=into)
    values = Gauge("perennial_skew_compared_values", "Values of a feature compared.", label, registry=into)
    held = Gauge("perennial_skew_withheld_values", "Values flagged missing or expired.", label, registry=into)
    lacking = Gauge(
        "perennial_skew_lacking_values", "Of these, those that the lake has.", label, registry=into
    )
    until = Gauge("perennial_skew_until_timestamp_seconds", "End of the period probed.", registry=into)
    until.set(report.period.until.timestamp())
    for one in report.verdict.features:
        if one.rate is not None:  # no sample where nothing was compared: 0 would say that all is well
            rate.labels(one.name).set(one.rate)
        values.labels(one.name).set(one.compared)
        held.labels(one.name).set(one.withheld)
        lacking.labels(one.name).set(one.lacking)
    path = project.settings.home / METRICS
    write_atomically(path, generate_latest(into).decode())
    return path


@flow(name="skew-probe")
def skew_probe(
    since: datetime | None = None, until: datetime | None = None, answers: int = AT_MOST
) -> dict[str, Any]:
    """Compare journalled features with the same features made again; default: the last day that landed."""
    from services.schemas import build_wire

    project = open_project()
    landed = landed_until(project)
    end = until or landed
    period = Period(since or end - timedelta(days=1), end)
    reached = min(end, landed)
    if not project.journal.sample_predictions(Period(min(period.since, reached), reached), 1):
        told = "no answer in %s that is before %s, up to when data has landed: nothing to compare"
        get_run_logger().info(told, period, landed)
        return {"period": str(period), "answers": 0}
    report = probe_skew(project, build_wire(project.problem), period, answers)
    keep_report(project, report)
    shown = [row for row in to_rows(report) if row["mismatched"] or row["lacking"]] or to_rows(report)
    hidden = {"since", "until", "answers"}
    told = "; ".join(report.verdict.reasons)
    publish_table(
        "skew-probe", [{k: v for k, v in row.items() if k not in hidden} for row in shown], told[:250]
    )
    if not report.verdict.ok:
        get_run_logger().warning(told)
    return {**asdict(report), "period": str(report.period)}
