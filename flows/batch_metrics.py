"""What the loop found, for Prometheus: verdicts of the monitor and runs of the flows, read when asked.

The quality of data and the skew are files that their flows leave under `metrics` in the home. What is read
here is logical time where the name says `until`: a replay of past years has its own now.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.policy.trigger import name_length

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FRESH_SECONDS = 5.0  # an answer is given again for so long: two Prometheus servers cost no more than one
FOLDER = "metrics"
VERDICTS = "verdicts"
REQUESTS = "retrain_requests"
SIGNALS = ("quality", "underrating", "overrating", "drift")  # those that are always told, breached or not
MEASURES = ("auc", "skill", "calibration", "log_loss", "brier", "base_rate")
BOUNDS = ("", "_low", "_high")
GAUGES = {
    "coverage": (
        "perennial_window_coverage_ratio",
        "Share of the window's things that the champion answered.",
    ),
    "flagged": ("perennial_window_flagged_ratio", "Share of its answers with an input that it did not know."),
    "rows": ("perennial_window_things", "Things that the champion answered in the window."),
    "arrived": ("perennial_window_labels_ratio", "Share of the window's labels that has arrived."),
    "drifted_importance": ("perennial_drift_importance_ratio", "Share of the importance that drifted."),
    "score_psi": ("perennial_drift_score_psi", "Population stability index of the scores."),
}  # column of a verdict -> gauge
Sample = tuple[str, str, dict[str, str], float]  # of a gauge: its name, what it tells, labels, value

log = logging.getLogger("perennial.reports")


class BatchMetrics:
    """Renders what the home and the Prefect server hold; the same answer for a few seconds."""

    def __init__(self, home: Path, prefect_url: str = "") -> None:
        self._home = home
        self._prefect_url = prefect_url
        self._lock = threading.Lock()
        self._made = b""
        self._until = 0.0

    def render(self) -> bytes:
        """Return everything as Prometheus reads it."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._made = self._render()
                self._until = time.monotonic() + FRESH_SECONDS
            return self._made

    def _render(self) -> bytes:
        from prometheus_client import generate_latest

        texts = [path.read_text() for path in sorted((self._home / FOLDER).glob("*.prom"))]
        return "".join(texts).encode() + generate_latest(_Collected(list(self._collect())))

    def _collect(self) -> Iterator["Metric"]:
        from polars.exceptions import PanicException  # no Exception: a damaged file can raise it
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily(
            "perennial_batch_source_up", "1 if what the batch metrics come from was read.", labels=["source"]
        )
        sources: dict[str, Callable[[], list[Metric]]] = {"lake": lambda: read_verdict_metrics(self._home)}
        if self._prefect_url:
            sources["prefect"] = lambda: read_run_metrics(self._prefect_url)
        for name, read in sources.items():
            try:
                found = read()
            except (Exception, PanicException) as error:  # noqa: BLE001 - told as a metric, which is what alerts are made of
                log.warning("no metrics of %s: %s", name, error)
                up.add_metric([name], 0)
            else:
                yield from found
                up.add_metric([name], 1)
        yield up


class _Collected:
    """Metrics that were made already, as a registry."""

    def __init__(self, metrics: list["Metric"]) -> None:
        self._metrics = metrics

    def collect(self) -> list["Metric"]:
        return self._metrics


def read_verdict_metrics(home: Path) -> list["Metric"]:
    """Return the newest verdict of a week and of a day as gauges, and how many retrains were asked for."""
    from prometheus_client.core import GaugeMetricFamily

    from feature_repo.lake import Lake

    lake = Lake(home / "lake")
    requests = GaugeMetricFamily("perennial_retrain_requests", "Retrains that the monitor has asked for.")
    requests.add_metric([], len(lake.read(REQUESTS)) if lake.has(REQUESTS) else 0)
    if not lake.has(VERDICTS) or not len(table := lake.read(VERDICTS)):
        return [requests]
    # A day is judged at once, a week when its labels are there: the newest of all is always a day.
    newest = {
        name_length(row["window_until"] - row["window_since"]): row
        for row in table.sort("window_until", "asof").iter_rows(named=True)
    }
    return [requests, *describe_verdicts({kind: row for kind, row in newest.items() if kind})]


def describe_verdicts(newest: Mapping[str, Mapping[str, Any]]) -> list["Metric"]:
    """Return rows of the verdicts as gauges, by what their window is called in the label `window`."""
    from prometheus_client.core import GaugeMetricFamily

    gauges: dict[str, GaugeMetricFamily] = {}
    for kind, verdict in newest.items():
        for name, told, labels, value in list_samples(verdict):
            gauge = gauges.setdefault(name, GaugeMetricFamily(name, told, labels=["window", *labels]))
            gauge.add_metric([kind, *labels.values()], value)
    return list(gauges.values())


def list_samples(verdict: Mapping[str, Any]) -> Iterator[Sample]:
    """Yield what one verdict tells; what it could not tell has no sample, rather than a 0."""
    whom = {"version": str(verdict["model_version"]), "quality_state": str(verdict["quality_state"])}
    yield "perennial_verdict_info", "1; whom the newest verdict is about.", whom, 1
    name, told = "perennial_verdict_until_timestamp_seconds", "End of the newest window judged."
    yield name, told, {}, to_timestamp(verdict["window_until"])
    for column, (name, told) in GAUGES.items():
        if verdict.get(column) is not None:
            yield name, told, {}, float(verdict[column])
    # Alarms stand beside breaches where the verdict tells signals that ask for no retrain.
    alarms = json.loads(verdict.get("alarms") or "[]")
    breaches = [name.replace(" ", "_") for name in (*json.loads(verdict["breaches"]), *alarms)]
    for signal in dict.fromkeys((*SIGNALS, *breaches)):
        told = "1 if the newest window breached the signal, else 0."
        yield "perennial_breach", told, {"signal": signal}, signal in breaches
    for column in json.loads(verdict["columns"]):
        told = "Population stability index of a model's input."
        yield "perennial_drift_psi", told, {"column": column["name"]}, float(column["psi"])
    for kind, prefix in (("realised", ""), ("estimated", "estimated_")):
        yield from _list_quality(verdict, kind, prefix)


def _list_quality(verdict: Mapping[str, Any], kind: str, prefix: str) -> Iterator[Sample]:
    for bound in BOUNDS:
        told = f"The {kind} quality of the newest window{bound.replace('_', ', its interval ')}."
        for measure in MEASURES:
            value = verdict.get(f"{prefix}{measure}{bound}")
            if value is not None:
                yield f"perennial_{kind}_quality{bound}", told, {"measure": measure}, float(value)


def read_run_metrics(prefect_url: str) -> list["Metric"]:
    """Return when each flow last ended well, and when badly, by what the Prefect server knows."""
    import httpx
    from prometheus_client.core import GaugeMetricFamily

    ends = {
        "success": (["COMPLETED"], "ended well"),
        "failure": (["FAILED", "CRASHED"], "failed or crashed"),
    }
    made = []
    with httpx.Client(base_url=f"{prefect_url}/api", timeout=5.0) as client:
        flows = _ask(client, "/flows/filter", {"limit": 200})
        for name, (states, words) in ends.items():
            gauge = GaugeMetricFamily(
                f"perennial_flow_last_{name}_timestamp_seconds",
                f"When a run of the flow last {words}.",
                labels=["flow"],
            )
            for flow in flows:
                wanted = {
                    "flows": {"id": {"any_": [flow["id"]]}},
                    "flow_runs": {"state": {"type": {"any_": states}}},
                    "sort": "END_TIME_DESC",
                    "limit": 1,
                }
                for run in _ask(client, "/flow_runs/filter", wanted):
                    if run["end_time"]:
                        gauge.add_metric(
                            [flow["name"]], to_timestamp(datetime.fromisoformat(run["end_time"]))
                        )
            made.append(gauge)
    return made


def _ask(client: Any, path: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = client.post(path, json=wanted)
    answer.raise_for_status()
    return list(answer.json())


def to_timestamp(instant: datetime) -> float:
    """Return seconds since 1970; an instant without a zone is UTC."""
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
