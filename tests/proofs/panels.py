"""Every panel of the dashboards shows data: each query is run against the real Prometheus in a watched world.

Real service under load, real reports over what ingest, labels, monitor and a real flow run left.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.bench.serving.material import ROOT
from tests.proofs.monitored import World, running_world

Figure = dict[str, Any]
SHOWN_WITHIN = 90.0  # seconds
# A run that ends well: nothing was asked before the problem's first day.
FLOW = """
from datetime import timedelta
from feature_repo.problem import PROBLEM
from flows.skew import skew_probe
skew_probe(PROBLEM.start - timedelta(days=2), PROBLEM.start - timedelta(days=1))
"""


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    dashboards = load_dashboards()
    with (
        tempfile.TemporaryDirectory(prefix="panels-") as folder,
        running_world(Path(folder) / "home") as world,
    ):
        _tell_skew(world)
        _send_back(world)
        subprocess.run([sys.executable, "-W", "ignore", "-c", FLOW], cwd=ROOT, check=True, stdout=sys.stderr)
        wanted = [one for one in dashboards.list_queries() if not one[1].may_be_empty]
        empty = _await_data(world, wanted)
        for title in dashboards.DASHBOARDS:
            mine = [query for name, _, query in wanted if name == title]
            bare = [query for query in mine if query in empty]
            told = {"queries": len(mine), "empty": bare}
            yield _tell(
                f"dashboard {title}: queries without data", len(bare), 0, bool(mine) and not bare, told
            )
        left = [query for _, panel, query in dashboards.list_queries() if panel.may_be_empty]
        refused = [query for query in left if not _is_valid(world, query)]
        name = (
            f"of {len(left)} queries that only show something when something is wrong, refused by Prometheus"
        )
        yield _tell(name, len(refused), 0, bool(left) and not refused, {"refused": refused})


def _is_valid(world: World, query: str) -> bool:
    import httpx

    try:
        world.ask_prometheus(query)
    except httpx.HTTPStatusError:
        return False
    return True


def _await_data(world: World, wanted: list[Any]) -> set[str]:
    """Return the queries that gave no number in time."""
    waiting = {query for _, _, query in wanted}
    deadline = time.monotonic() + SHOWN_WITHIN
    while waiting and time.monotonic() < deadline:
        waiting = {query for query in waiting if not _has_number(world.ask_prometheus(query))}
        time.sleep(1)
    return waiting


def _has_number(found: list[dict[str, Any]]) -> bool:
    return any(one["value"][1] != "NaN" for one in found)


def _tell_skew(world: World) -> None:
    """Leave in the lake what a probe leaves that found nothing: the probe itself has its own proof."""
    from feature_repo.contract import Period
    from flows.policy.skew import FeatureSkew, SkewVerdict
    from flows.skew import SkewReport, keep_report

    features = tuple(
        FeatureSkew(name, 100, 100, 0, 0, 0, None, None, ()) for name in world.project.problem.feature_names
    )
    period = Period(world.lived - timedelta(days=1), world.lived)
    keep_report(world.project, SkewReport(period, 100, 0, SkewVerdict(features, ())))


def _send_back(world: World) -> None:
    """Send an outcome, and a request that is none, as clients do."""
    import httpx

    from feature_repo.problem import PROBLEM
    from services.schemas import build_wire

    url, wire = world.settings.service_url, build_wire(PROBLEM)
    httpx.post(f"{url}/feedback", json=json.loads(json.dumps(wire.example_feedback, default=str)), timeout=30)
    httpx.post(f"{url}/predict", json={"carrier": 1}, timeout=30)


def load_dashboards() -> ModuleType:
    """Return the module that makes the dashboards: it is no part of a package."""
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "infra" / "grafana" / "dashboards.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _tell(name: str, value: Any, bar: Any, ok: bool, facts: dict[str, Any] | None = None) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok), **(facts or {})}
