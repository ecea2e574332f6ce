"""What the service counts. Labels are bounded: routes, rungs, reasons, features and kinds of flag."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feature_repo.freshness import OnlineVector
from services.ladder import Answer

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
AGES = (900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)  # seconds
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
    "swaps": ("Changes of what serves.",),
    "refused_versions": ("Model versions that failed their checks.",),
}


class Metrics:
    """The service's Prometheus metrics; right over several workers if PROMETHEUS_MULTIPROC_DIR is set."""

    def __init__(self, registry: Any = None) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram
        from prometheus_client import Counter as Total

        self._registry = registry or CollectorRegistry()
        into = {"registry": self._registry}
        live = {"multiprocess_mode": "livesum", **into}
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
        self.serving = Gauge("perennial_serving_workers", "Workers by version.", ("role", "version"), **live)
        self.registry_up = Gauge("perennial_registry_up_workers", "Workers that reach the registry.", **live)

    def render(self) -> tuple[bytes, str]:
        """Return all workers' metrics as Prometheus reads them, and the type of that text."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            forget_dead_workers()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST

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
        oldest: dict[str, int] = {}
        for vector in vectors:
            at = vector.at
            for view, stamp in vector.stamps.items():
                age = at - stamp
                if age >= oldest.setdefault(view, 0):
                    oldest[view] = age
        for view, age in oldest.items():
            self.ages.labels(view).observe(age / 1e6)

    def note_serving(self, old: Sequence[str | None], new: Sequence[str | None]) -> None:
        """Count a swap and show the versions that serve now."""
        self.swaps.inc()
        for role, before, after in zip(("champion", "previous", "challenger"), old, new, strict=True):
            if before and before != after:
                self.serving.labels(role, before).set(0)
            if after:
                self.serving.labels(role, after).set(1)


def forget_dead_workers() -> None:
    """Take the gauges of workers that were killed out of the sums."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return
    from prometheus_client.multiprocess import mark_process_dead

    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            mark_process_dead(int(pid))
