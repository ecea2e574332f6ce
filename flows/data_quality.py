"""Quality of data as a time series: what each batch measured, kept, shown, told to Prometheus.

The measures are the profiles in the manifests (see `expectations.profile`), with the quarantined share.
An alert is a warning of a batch: a measure that has left its own history's range, or a rule that warns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.contract import RawTable
from feature_repo.lake import Lake, write_atomically
from flows.manifests import LANDED, Manifest, read_history, read_manifests
from flows.project import Project
from flows.quarantine import read_quarantine

METRICS = Path("metrics") / "data.prom"
PLOTS = Path("pages") / "quality"
STAMP = "event_timestamp"
LATEST = 20  # alerts shown beside a run
SHOWN = ("rows", "quarantined_share", "duplicates", "age_hours")  # measures of a table, plotted first


@dataclass(frozen=True)
class Alert:
    """One batch whose data was odd, in words."""

    table: str
    batch_id: str
    until: datetime
    status: str
    words: str


def read_quality(lake: Lake, table: str) -> pl.DataFrame:
    """Return the table's measures batch by batch: batch_id, since, until, measure, value."""
    return read_history(read_manifests(lake), table, None)


def read_newest(known: pl.DataFrame, table: RawTable) -> dict[str, Any]:
    """Return how far a table has landed and what its newest landed batch measured, for people."""
    series = read_history(known, table.name, None)
    last = series.filter(pl.col("until") == series["until"].max()) if len(series) else series
    measures = dict(last.select("measure", "value").iter_rows())
    nulls = {
        name.removesuffix(".null_share"): value
        for name, value in measures.items()
        if name.endswith(".null_share") and value > 0
    }
    emptiest = sorted(nulls.items(), key=lambda pair: -pair[1])[:3]
    return {
        "table": table.name,
        "until": str(series["until"].max())[:16] if len(series) else "never",
        "rows": int(measures.get("rows", 0)),
        "quarantined": f"{measures.get('quarantined_share', 0):.1%}",
        "duplicates": int(measures.get("duplicates", 0)),
        "emptiest": ", ".join(f"{name} {share:.0%} missing" for name, share in emptiest),
        "measures": measures,
    }


def list_alerts(known: pl.DataFrame) -> list[Alert]:
    """Return every batch that warned or stopped, newest first."""
    odd = known.filter((pl.col("reasons") != "") | (pl.col("warnings") != ""))
    names = ("table", "batch_id", "until", "status", "reasons", "warnings")
    return [
        Alert(table, batch_id, until, status, "; ".join(filter(None, (reasons, warnings))))
        for table, batch_id, until, status, reasons, warnings in odd.sort("until", descending=True)
        .select(names)
        .iter_rows()
    ]


def write_metrics(project: Project) -> Path:
    """Write the newest batch of each table as Prometheus metrics, to be served at /metrics of the reports."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    into = CollectorRegistry()
    measure = Gauge(
        "perennial_data_measure",
        "A measure of the newest batch; for a column, measure is column.measure.",
        ("table", "measure"),
        registry=into,
    )
    until = Gauge(
        "perennial_data_until_timestamp_seconds", "Up to when the table landed.", ("table",), registry=into
    )
    alerts = Gauge("perennial_data_alerts", "Oddities of the newest batch.", ("table",), registry=into)
    stopped = Gauge("perennial_data_stopped", "1 if the newest batch stopped.", ("table",), registry=into)
    waiting = Gauge("perennial_quarantine_rows", "Rows in quarantine.", ("table",), registry=into)
    built = Gauge(
        "perennial_features_until_timestamp_seconds",
        "The newest tick of the table.",
        ("table",),
        registry=into,
    )
    for features in project.problem.feature_tables:
        if newest_tick := project.lake.latest(features.name, STAMP):
            built.labels(features.name).set(newest_tick.timestamp())
    known, held = read_manifests(project.lake), read_quarantine(project.lake)
    for table in project.problem.raw:
        mine = known.filter(table=table.name)
        waiting.labels(table.name).set(held.filter(table=table.name).height)
        if not len(mine):
            continue
        newest = Manifest(**mine.sort("until", "revision").row(-1, named=True))
        landed = read_history(mine, table.name, None)
        alerts.labels(table.name).set(len([w for w in newest.warnings.split("; ") if w]))
        stopped.labels(table.name).set(newest.status != LANDED)
        if len(landed):
            until.labels(table.name).set(landed["until"].max().timestamp())  # type: ignore[union-attr]
            last = landed.filter(pl.col("until") == landed["until"].max())
            for name, value in last.select("measure", "value").iter_rows():
                measure.labels(table.name, name).set(value)
    path = project.settings.home / METRICS
    write_atomically(path, generate_latest(into).decode())
    return path


def plot_quality(project: Project, table: RawTable) -> Path | None:
    """Draw the table's measures over time, alerts marked; return the picture's path under the home."""
    from matplotlib.figure import Figure

    known = read_manifests(project.lake)
    series = read_history(known, table.name, None)
    if not len(series):
        return None
    columns = [
        name for name in table.schema if (series.filter(measure=f"{name}.null_share")["value"] > 0).any()
    ]
    shown = [*SHOWN, *(f"{name}.null_share" for name in columns)]
    odd = known.filter((pl.col("table") == table.name) & (pl.col("warnings") != ""))["until"].to_list()
    figure = Figure(figsize=(10, 1.4 * len(shown)), layout="constrained")
    for axis, name in zip(figure.subplots(len(shown), sharex=True), shown, strict=True):
        line = series.filter(measure=name).sort("until")
        axis.plot(line["until"].to_list(), line["value"].to_list(), linewidth=1)
        for at in odd:
            axis.axvline(at, color="tab:red", alpha=0.3, linewidth=0.8)
        axis.set_ylabel(name.replace(".", "\n"), rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(f"{table.name}: measures of each batch; red: a batch that warned")
    path = PLOTS / f"{table.name}.png"
    whole = project.settings.home / path
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_suffix(".part.png")
    figure.savefig(part, dpi=80)
    part.replace(whole)
    return path


def publish_quality(project: Project) -> None:
    """Bring metrics and plots up to date, and show the latest alerts beside the run."""
    from flows.summary import publish

    write_metrics(project)
    plots = [path for table in project.problem.raw if (path := plot_quality(project, table))]
    alerts = describe_alerts(list_alerts(read_manifests(project.lake))[:LATEST])
    told = [f"- {a['until']} {a['table']} {a['status']}: {a['what']}" for a in alerts]
    links = [f"[{path.stem}]({project.settings.reports_url}/{path.as_posix()})" for path in plots]
    text = "\n".join(["Plots: " + ", ".join(links), "", *(told or ["No batch was odd."])])
    publish("data-quality", text, "Measures of every batch over time, and the latest alerts")


def describe_alerts(alerts: Sequence[Alert]) -> list[dict[str, str]]:
    """Return alerts as rows for people."""
    return [
        {"table": a.table, "until": f"{a.until:%Y-%m-%d %H:%M}", "status": a.status, "what": a.words}
        for a in alerts
    ]
