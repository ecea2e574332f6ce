"""What the service counts. Labels are bounded: routes, rungs, reasons, features and kinds of flag."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from feature_repo.freshness import OnlineVector
from services.ladder import Answer

# Close where answers usually lie, so that a quantile read off the buckets is off by little.
BUCKETS = (0.0005, 0.001, 0.0015, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
AGES = (900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)  # seconds
LAG_SECONDS = 1.0  # how often a worker tells what waits
# Series that stand at 0 from the start: one that appears with its first event has no rate to alert on.
EXPECTED: dict[str, tuple[tuple[str, ...], ...]] = {
    "requests": (
        ("/predict", "200"),
        ("/predict", "400"),
        ("/predict", "422"),
        ("/predict", "500"),
        ("/predict", "503"),
    ),
    "answers": (
        ("champion", "ok"),
        ("challenger", "ok"),
        ("champion", "challenger_failed"),
        ("previous", "no_champion"),
        ("previous", "champion_refused"),
        ("previous", "champion_unreachable"),
        ("previous", "champion_failed"),
        ("previous", "champion_late"),
        ("rule", "features_unavailable"),
        ("rule", "overloaded"),
        ("prior", "no_champion"),
    ),
    "dead_letters": (
        ("malformed",),
        ("missing",),
        ("expired",),
        ("wrong_type",),
        ("unseen",),
        ("out_of_range",),
        ("features_unavailable",),
    ),
    "journal_failures": (("/predict",), ("/feedback",), ("dead_letter",)),
}
COUNTERS: dict[str, tuple[Any, ...]] = {
    "requests": ("Requests by route and status.", ("route", "status")),
    "answers": ("Answers by rung and reason.", ("served_by", "reason")),
    "flags": ("Inputs that the model does not know.", ("feature", "kind")),
    "predictions": ("Predictions journalled.",),
    "feedback": ("Outcomes taken.",),
    "dead_letters": ("Dead letters written.", ("kind",)),
    "journal_failures": ("Batches not made durable.", ("what",)),
    "store_failures": ("Online reads that failed.",),
    "shadow_scores": ("Scores by the challenger, journalled.",),
    "shadow_dropped": ("Predictions that the challenger was not asked about, by why.", ("why",)),
    "swaps": ("Changes of what a worker serves, each worker's own.",),
    "refused_versions": ("Model versions that failed their checks.",),
}


class Metrics:
    """The service's Prometheus metrics; right over several workers if PROMETHEUS_MULTIPROC_DIR is set."""

    def __init__(self, registry: Any = None) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram
        from prometheus_client import Counter as Total

        from services.metric_files import take_room_for_metrics

        take_room_for_metrics()
        self._registry = registry or CollectorRegistry()
        into = {"registry": self._registry}
        live = {"multiprocess_mode": "livesum", **into}
        highest = {"multiprocess_mode": "livemax", **into}
        counters = {name: Total(f"perennial_{name}", *told, **into) for name, told in COUNTERS.items()}
        self.requests = counters["requests"]
        self.answers = counters["answers"]
        self.flags = counters["flags"]
        self.predictions = counters["predictions"]
        self.feedback = counters["feedback"]
        self.dead_letters = counters["dead_letters"]
        self.journal_failures = counters["journal_failures"]
        self.store_failures = counters["store_failures"]
        self.shadow_scores = counters["shadow_scores"]
        self.shadow_dropped = counters["shadow_dropped"]
        self.swaps = counters["swaps"]
        self.refused = counters["refused_versions"]
        self.seconds = Histogram("perennial_predict_seconds", "Time of /predict.", buckets=BUCKETS, **into)
        told = "Age of a view's oldest row in a request, at its instant of decision."
        self.ages = Histogram("perennial_feature_age_seconds", told, ("view",), buckets=AGES, **into)
        told = "Age past which a view's rows are not used."
        self.limits = Gauge("perennial_feature_limit_seconds", told, ("view",), **highest)
        told = "Time of one write of the journal, until it is on disk."
        self.commits = Histogram("perennial_journal_commit_seconds", told, buckets=BUCKETS, **into)
        self.workers = Gauge("perennial_workers", "Workers that run.", **live)
        told = "Rows that wait for an answer."
        self.waiting = Gauge("perennial_waiting_rows", told, **live)
        told = "Rows handed to the journal and not on disk yet."
        self.journal_rows = Gauge("perennial_journal_waiting_rows", told, **live)
        told = "For how long the write under way has lasted, in the slowest worker."
        self.journal_seconds = Gauge("perennial_journal_waiting_seconds", told, **highest)
        told = "When what serves changed last."
        self.swapped = Gauge("perennial_last_swap_timestamp_seconds", told, **highest)
        labels = ("version", "python")
        self.build = Gauge("perennial_build_info", "1; what runs.", labels, **highest)
        self.serving = Gauge("perennial_serving_workers", "Workers by version.", ("role", "version"), **live)
        self.registry_up = Gauge("perennial_registry_up_workers", "Workers that reach the registry.", **live)
        told = "When the first of the workers that count together started: counts began then."
        # Not of live workers alone: what a dead one counted is still there, and so is its start.
        started = Gauge("perennial_start_timestamp_seconds", told, multiprocess_mode="min", **into)
        started.set_to_current_time()  # at once: the lowest would be 0 until then

    def render(self) -> tuple[bytes, str]:
        """Return all workers' metrics as Prometheus reads them, and the type of that text."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, values
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        # Feast sets the folder too when it is imported, which is too late for what was counted before.
        if values.ValueClass._multiprocess:
            forget_dead_workers()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(_Own(registry)), CONTENT_TYPE_LATEST

    def note_start(self) -> None:
        """Show that this worker runs, and what it will count: called in the worker itself."""
        from importlib.metadata import PackageNotFoundError, version
        from platform import python_version

        try:
            ours = version("perennial")
        except PackageNotFoundError:  # the image carries the code, not the package
            ours = "not installed"
        self.workers.set(1)
        self.build.labels(ours, python_version()).set(1)
        for name, series in EXPECTED.items():
            for labels in series:
                getattr(self, name).labels(*labels)

    def note_limits(self, seconds: Mapping[str, float]) -> None:
        """Show how old each view's rows may be: what their age is measured by."""
        for view, limit in seconds.items():
            self.limits.labels(view).set(limit)

    def note_lag(self, waiting: int, rows: int, seconds: float) -> None:
        """Show what waits for an answer, and what waits for the disk and for how long."""
        self.waiting.set(waiting)
        self.journal_rows.set(rows)
        self.journal_seconds.set(seconds)

    def note_answers(self, answers: Sequence[Answer]) -> None:
        """Count answers and their flags."""
        counts = Counter((answer.served_by, answer.reason) for answer in answers)
        flags = Counter(
            (flag.feature, flag.kind) for answer in answers if answer.flags for flag in answer.flags
        )
        for labels, count in counts.items():
            self.answers.labels(*labels).inc(count)
        for labels, count in flags.items():
            self.flags.labels(*labels).inc(count)

    def note_vectors(self, vectors: Sequence[OnlineVector]) -> None:
        """Count how old the rows were that a request met, expired or not: once a view."""
        for view in {view for vector in vectors for view in vector.stamps}:
            ages = [vector.at - vector.stamps[view] for vector in vectors if view in vector.stamps]
            self.ages.labels(view).observe(max(0, *ages) / 1e6)

    def note_serving(self, old: Sequence[str | None], new: Sequence[str | None]) -> None:
        """Count a swap and show the versions that serve now."""
        self.swaps.inc()
        self.swapped.set_to_current_time()
        for role, before, after in zip(("champion", "previous", "challenger"), old, new, strict=True):
            if before and before != after:
                self.serving.labels(role, before).set(0)
            if after:
                self.serving.labels(role, after).set(1)


class _Own:
    """What a registry holds of ours: libraries put metrics of their own beside them, which never move."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Any]:
        """Yield the metrics by our name."""
        return (metric for metric in self._registry.collect() if metric.name.startswith("perennial_"))


def forget_dead_workers() -> None:
    """Take the gauges of workers that were killed out of the sums."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    from prometheus_client.multiprocess import mark_process_dead

    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            with suppress(FileNotFoundError):  # another worker was faster
                mark_process_dead(int(pid))
