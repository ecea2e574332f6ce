"""Grafana dashboards as code. `python infra/grafana/dashboards.py` writes them into `dashboards/` beside it.

A panel is a title, a unit and queries; where it stands follows from the order.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "perennial"}
FORMATS = {"heatmap": "heatmap", "table": "table"}
WIDTH, HEIGHT, ACROSS = 8, 8, 3  # Grafana's grid has 24 columns


@dataclass(frozen=True)
class Panel:
    """One picture; `queries` are pairs of a legend and an expression.

    unit  as Grafana names it: s, percentunit, reqps, short, ...
    may_be_empty  what only shows when something is wrong, or where an optional part runs
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    told: str = ""
    may_be_empty: bool = False


def one(title: str, unit: str, query: str, legend: str = "", **more: Any) -> Panel:
    """Return a panel of one query."""
    return Panel(title, unit, ((legend, query),), **more)


QUANTILES = tuple((f"p{q}", f"perennial:predict_seconds:p{q}_rate5m") for q in (50, 95, 99))
ERRORS = 'perennial_requests_total{route="/predict", status!="200"}'
REALISED, ESTIMATED = (
    'perennial_realised_quality{measure="auc", window="week"}',
    'perennial_estimated_quality{measure="auc", window="week"}',
)
ESTIMATED_DAY = 'perennial_estimated_quality{measure="auc", window="day"}'
VERSION = "sum by (role, version) (perennial_serving_workers) > 0"
UNTIL = "perennial_data_until_timestamp_seconds"

DASHBOARDS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        one("Alerts that fire", "short", 'count(ALERTS{alertstate="firing"}) or vector(0)', kind="stat"),
        one("What is watched", "short", "min by (job) (up)", "{{job}}", kind="stat"),
        one("Serving", "short", VERSION, "{{role}} v{{version}}", kind="stat"),
        one("Requests", "reqps", "perennial:predict_requests:rate5m"),
        one("Errors", "percentunit", "perennial:predict_errors:ratio_rate5m"),
        Panel("Latency", "s", QUANTILES),
        one("Answered by the champion", "percentunit", "perennial:answers:champion_ratio_rate5m"),
        one("Realised quality (AUC)", "short", REALISED),
        one("Importance that drifted", "percentunit", "perennial:drift_importance:last"),
        one(
            "Data behind the table that has come furthest",
            "s",
            "perennial:table_behind_seconds:last",
            "{{table}}",
        ),
        one("Last good run of each flow", "s", "perennial:flow_success_age_seconds:last", "{{flow}}"),
        one(
            "Alerts", "short", 'ALERTS{alertstate="firing"}', "{{alertname}}", kind="table", may_be_empty=True
        ),
    ),
    "Model": (
        one("Serving", "short", VERSION, "{{role}} v{{version}}", told="Workers by version."),
        one("Swaps by workers", "short", "sum(perennial_swaps_total)"),
        one("Last swap", "dateTimeFromNow", "max(perennial_last_swap_timestamp_seconds) * 1000", kind="stat"),
        one(
            "Answers by rung and reason",
            "reqps",
            "sum by (served_by, reason) (rate(perennial_answers_total[5m]))",
            "{{served_by}} {{reason}}",
        ),
        Panel(
            "Realised quality (AUC) with its interval",
            "short",
            tuple(
                (name, f'perennial_realised_quality{end}{{measure="auc", window="week"}}')
                for name, end in (("AUC", ""), ("low", "_low"), ("high", "_high"))
            ),
        ),
        Panel(
            "Estimated and realised quality (AUC)",
            "short",
            (("estimated", ESTIMATED), ("realised", REALISED), ("estimated, newest day", ESTIMATED_DAY)),
        ),
        one(
            "Observed over expected",
            "short",
            'perennial_realised_quality{measure="calibration", window="week"}',
        ),
        one("Labels that arrived", "percentunit", 'perennial_window_labels_ratio{window="week"}'),
        one("Breaches and alarms", "short", "perennial:breach:last", "{{signal}}, newest {{window}}"),
        one("Inputs of a week (PSI)", "short", 'topk(10, perennial_drift_psi{window="week"})', "{{column}}"),
        one("Inputs of a day (PSI)", "short", 'topk(10, perennial_drift_psi{window="day"})', "{{column}}"),
        one("Scores (PSI)", "short", "perennial_drift_score_psi", "newest {{window}}"),
        one("Retrains asked for", "short", "perennial_retrain_requests", kind="stat"),
        one("Coverage", "percentunit", "perennial_window_coverage_ratio", "newest {{window}}"),
        one("Skewed values", "percentunit", "topk(10, perennial:skew_rate:last)", "{{feature}}"),
        one("Challenger's scores", "reqps", "sum(rate(perennial_shadow_scores_total[5m]))"),
    ),
    "Data": (
        one(
            "Up to when each table has landed", "dateTimeAsIso", f"{UNTIL} * 1000", "{{table}}", kind="table"
        ),
        one(
            "Behind the table that has come furthest", "s", "perennial:table_behind_seconds:last", "{{table}}"
        ),
        one(
            "Newest tick of each feature table",
            "dateTimeAsIso",
            "perennial_features_until_timestamp_seconds * 1000",
            "{{table}}",
            kind="table",
        ),
        one("Rows of the newest batch", "short", 'perennial_data_measure{measure="rows"}', "{{table}}"),
        one("Duplicates", "short", 'perennial_data_measure{measure="duplicates"}', "{{table}}"),
        one(
            "Missing values",
            "percentunit",
            'topk(10, perennial_data_measure{measure=~".+[.]null_share"})',
            "{{table}} {{measure}}",
        ),
        one("Oddities of the newest batch", "short", "perennial:data_alerts:last", "{{table}}"),
        one("Newest batch stopped", "short", "perennial:data_stopped:last", "{{table}}"),
        one(
            "Share of the newest batch in quarantine",
            "percentunit",
            "perennial:quarantined:ratio",
            "{{table}}",
        ),
        one("Rows in quarantine", "short", "perennial_quarantine_rows", "{{table}}"),
        one("Newest verdict behind the data", "s", "perennial:verdict_behind_seconds:last"),
        one("Last good run of each flow", "s", "perennial:flow_success_age_seconds:last", "{{flow}}"),
    ),
    "Service": (
        one(
            "Requests by route and status",
            "reqps",
            "sum by (route, status) (rate(perennial_requests_total[5m]))",
            "{{route}} {{status}}",
        ),
        one("Errors by status", "reqps", f"sum by (status) (rate({ERRORS}[5m]))", "{{status}}"),
        Panel("Latency", "s", QUANTILES),
        one(
            "Latency, all of it",
            "s",
            "sum by (le) (rate(perennial_predict_seconds_bucket[5m]))",
            "{{le}}",
            kind="heatmap",
        ),
        Panel(
            "Rows that wait",
            "short",
            (
                ("for an answer", "sum(perennial_waiting_rows)"),
                ("for the disk", "sum(perennial_journal_waiting_rows)"),
            ),
        ),
        Panel(
            "Journal",
            "s",
            (
                ("p99 of a write", "perennial:journal_commit_seconds:p99_rate5m"),
                ("under way", "max(perennial_journal_waiting_seconds)"),
            ),
        ),
        one(
            "Failures of the journal",
            "reqps",
            "sum by (what) (rate(perennial_journal_failures_total[5m]))",
            "{{what}}",
        ),
        one("Feature age, 9 in 10 requests", "s", "perennial:feature_age_seconds:p90_rate5m", "{{view}}"),
        one("Feature age by its limit", "percentunit", "perennial:feature_age:limit_ratio", "{{view}}"),
        one(
            "Dead letters by kind",
            "reqps",
            "sum by (kind) (rate(perennial_dead_letters_total[5m]))",
            "{{kind}}",
        ),
        one(
            "Unknown inputs",
            "reqps",
            "topk(10, sum by (feature, kind) (rate(perennial_flags_total[5m])))",
            "{{feature}} {{kind}}",
        ),
        one("Failed reads of the store", "reqps", "sum(rate(perennial_store_failures_total[5m]))"),
        Panel(
            "Workers",
            "short",
            (("run", "sum(perennial_workers)"), ("reach the registry", "sum(perennial_registry_up_workers)")),
        ),
        one("Refused versions", "short", "sum(perennial_refused_versions_total)", kind="stat"),
        one("What runs", "short", "perennial_build_info", "{{version}}, Python {{python}}", kind="stat"),
        one("Outcomes taken", "reqps", "sum(rate(perennial_feedback_total[5m]))"),
        one("Shed answers", "percentunit", "perennial:answers:shed_ratio_rate5m"),
        one(
            "Replicas by state",
            "short",
            'haproxy_server_status{proxy="replicas"} > 0',
            "{{server}} {{state}}",
            may_be_empty=True,
            told="Only where a balancer runs.",
        ),
    ),
}


def build_dashboard(title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """Return a dashboard as Grafana takes it."""
    return {
        "uid": f"perennial-{title.lower()}",
        "title": f"Perennial: {title}",
        "tags": ["perennial"],
        "schemaVersion": 38,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": [_build_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _build_panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, ACROSS)
    instant = panel.kind in {"stat", "table"}
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.told,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                "instant": instant,
                "range": not instant,
                "format": FORMATS.get(panel.kind, "time_series"),
            }
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }


def render() -> dict[str, str]:
    """Return each dashboard's text by file name."""
    return {
        f"{title.lower()}.json": json.dumps(build_dashboard(title, panels), indent=1) + "\n"
        for title, panels in DASHBOARDS.items()
    }


def list_queries() -> Iterator[tuple[str, Panel, str]]:
    """Yield dashboard, panel and expression of every query."""
    for title, panels in DASHBOARDS.items():
        for panel in panels:
            for _, query in panel.queries:
                yield title, panel, query


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text)
