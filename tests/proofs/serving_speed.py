"""Our service with everything on beside the bare endpoint and `mlflow models serve`, in turn."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.bench_serving import Bench, Results, find_ratio, run
from tests.bench.serving.material import prepare

ROUNDS, SECONDS = 5, 3.0
SERVERS = ("ours", "ours-shadow", "bare", "mlflow")
SCENES = ("8", "32", "batch", "batch-8")
BATCHES = {"batch": "batches of 100 one after the other", "batch-8": "batches of 100, 8 at once"}
MIN_OVER_BARE, MIN_OVER_MLFLOW, MIN_BATCH = 4.0, 15.0, 3.0
MAX_SHADOW = 0.15


def measure(rounds: int = ROUNDS, seconds: float = SECONDS) -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory(prefix="speed-") as folder, Bench(prepare(), Path(folder)) as bench:
        bench.start(SERVERS)
        shadow = bench.read_shadow()
        results = run(bench, SERVERS, SCENES, rounds, seconds)
    for scene in ("8", "32"):
        yield _judge_ratio(results, scene, "bare", MIN_OVER_BARE)
        yield _judge_ratio(results, scene, "mlflow", MIN_OVER_MLFLOW)
    slow, typical = _take(results, "ours", "8", "p99_ms"), _take(results, "bare", "8", "p50_ms")
    name = "speed: p99 at concurrency 8, in ms, beside the bare endpoint's p50"
    yield _figure(name, slow, f"<= {typical:.3g} ms", slow <= typical)
    for scene in ("batch", "batch-8"):
        yield _judge_ratio(results, scene, "mlflow", MIN_BATCH)
    cost = 1 - find_ratio(results["ours-shadow", "8"], results["ours", "8"])
    name = f"speed: share of requests a second at concurrency 8 that the shadow {shadow or '(none)'} costs"
    yield _figure(name, cost, f"<= {MAX_SHADOW:g}, with a shadow", bool(shadow) and cost <= MAX_SHADOW)
    failed = sum(one["failed"] for rounds_ in results.values() for one in rounds_)
    yield _figure("speed: requests not answered in full", failed, "0", not failed)


def _judge_ratio(results: Results, scene: str, other: str, bar: float) -> dict[str, Any]:
    ratio = find_ratio(results["ours", scene], results[other, scene])
    facts = {
        "ours_rps": _take(results, "ours", scene, "rps"),
        "theirs_rps": _take(results, other, scene, "rps"),
        "ours_cpu_ms": _take(results, "ours", scene, "cpu_ms"),
        "theirs_cpu_ms": _take(results, other, scene, "cpu_ms"),
    }
    what = BATCHES.get(scene, f"concurrency {scene}")
    name = f"speed: requests a second over {other}, {what}"
    return _figure(name, ratio, f">= {bar:g}", ratio >= bar, **facts)


def _take(results: Results, server: str, scene: str, key: str) -> float:
    return statistics.median(one[key] for one in results[server, scene])


def _figure(name: str, value: object, bar: str, ok: bool, **told: object) -> dict[str, Any]:
    return {"name": name, "value": value, "bar": bar, "ok": ok, **told}
