"""From the click in the MLflow UI to the last answer of the version that went, 20 times under load.

And once to a version that no worker had loaded: it is fetched and looked at first.

A real MLflow, the real service with two workers, features of real flights, two small models, clients that ask
on and retry nothing. The click is the very request that the UI's "Save aliases" sends. Each worker tells at
/live when it changed its champion, the clients when the version that went answered them last: the later of
both counts. The keeper runs beside it, and what it wrote down is checked.
"""

import contextlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from feature_repo.contract import Period
from tests.load import Load, steady_load
from tests.proofs.replicas import MONTH, _fill_home, _register

Figure = dict[str, Any]
WORKERS, CLIENTS, PAUSE, TIMES, LIMIT = 2, 4, 0.02, 20, 60.0
START = 600.0  # seconds that a worker may take to load its first model, on a machine that is busy
SETTLE = 1.0  # seconds for answers under way, before the next click
DAYS = Period(MONTH.until - timedelta(days=5), MONTH.until)


@dataclass
class World:
    """What runs."""

    settings: Any
    project: Any
    versions: tuple[int, int]
    load: Load


@dataclass(frozen=True)
class Click:
    """When it was made, which version went, and the seconds until the last worker had changed."""

    at: float
    gone: int
    changed: float


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as world:
        world.load.cut()
        before = len(world.project.releases.moves())
        clicks, late = [], 0
        for n in range(TIMES):
            to, back = world.versions[n % 2], world.versions[(n + 1) % 2]
            clicks.append(roll_back(world, to, back))
            late += not _await(lambda back=back: world.project.registry.aliases().get("previous") == back)
            time.sleep(SETTLE)
        seen = world.load.cut()
        moves = [m for m in world.project.releases.moves()[before:] if m.alias == "champion"]
        new = register_another(world)
        world.load.cut()
        first = roll_back(world, new, world.versions[(TIMES - 1) % 2])
        time.sleep(SETTLE)
        heard = world.load.cut()
    last = find_last_answers(clicks, seen.heard)
    taken = [max(click.changed, answered) for click, answered in zip(clicks, last, strict=True)]
    told = {
        "median": round(statistics.median(taken), 3),
        "worst": round(max(taken), 3),
        "worst of the workers": round(max(click.changed for click in clicks), 3),
        "worst of the answers": round(max(last), 3),
        "load": os.getloadavg()[0],
    }
    name = f"click in the MLflow UI to the last of {WORKERS} workers and the last answer, seconds"
    yield _tell(f"{name}: median of {TIMES}", told, "< 1", told["median"] < 1)
    yield _tell(f"{name}: worst of {TIMES}", told["worst"], "< 2", told["worst"] < 2)
    ok = not seen.failed and seen.answered == seen.sent > 0
    yield _tell("requests that failed meanwhile", seen.describe(), 0, ok)
    yield _tell("clicks after which `previous` was not the one before", late, 0, late == 0)
    name = "click to a version that no worker had loaded, seconds until the last serves it"
    told = {"seconds": round(first.changed, 3), "failed": heard.failed, "sent": heard.sent}
    yield _tell(name, told, "< 2, 0 failed", first.changed < 2 and not heard.failed and heard.sent > 0)
    wanted = [world.versions[n % 2] for n in range(TIMES)]
    kept = [move.after for move in moves]
    yield _tell("clicks in the record, in order", len(kept), TIMES, kept == wanted)


def register_another(world: World) -> int:
    """Register a version that no worker has seen, and return it."""
    from mlflow import MlflowClient

    run = MlflowClient(world.settings.mlflow_url).create_run("0").info.run_id
    return int(world.project.registry.register(world.settings.home / "packages" / "1", run, {}))


def find_last_answers(clicks: Sequence[Click], heard: Sequence[tuple[float, str]]) -> list[float]:
    """Return the seconds from each click to the last answer of the version that went, before the next click.

    0 if it never answered again.
    """
    ends = [*(click.at for click in clicks[1:]), math.inf]
    return [
        max((at - c.at for at, version in heard if version == str(c.gone) and c.at <= at < end), default=0.0)
        for c, end in zip(clicks, ends, strict=True)
    ]


def roll_back(world: World, version: int, gone: int) -> Click:
    """Move the alias as the UI does, and wait until the last worker has changed, or the limit."""
    name, url = world.project.problem.name, world.settings.mlflow_url
    body = {"name": name, "alias": "champion", "version": str(version)}
    clicked = time.time()
    httpx.post(
        f"{url}/ajax-api/2.0/mlflow/registered-models/alias", json=body, timeout=LIMIT
    ).raise_for_status()
    changed: dict[int, float] = {}
    deadline = time.monotonic() + LIMIT
    while len(changed) < WORKERS:
        if time.monotonic() > deadline:
            return Click(clicked, gone, LIMIT)
        # A new connection each time, so that every worker gets its turn.
        told = httpx.get(f"{world.settings.service_url}/live", timeout=LIMIT).json()
        if told["champion"] == str(version):
            changed[told["pid"]] = datetime.fromisoformat(told["champion_since"]).timestamp()
        time.sleep(0.02)
    return Click(clicked, gone, max(changed.values()) - clicked)


@contextlib.contextmanager
def running(home: Path) -> Iterator[World]:
    """Run MLflow with two models, the service on real features, the keeper, and the load."""
    from feature_repo.settings import Settings
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment, build_services
    from flows.project import open_project
    from flows.releasing.keeper import keeping
    from tests.ports import find_free_port

    ports = {f"{name}_port": find_free_port() for name in ("prefect", "mlflow", "service", "runner")}
    settings = Settings(home=home, schedules=False, service_workers=WORKERS, **ports)
    bodies, before = _fill_home(home, DAYS), dict(os.environ)
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1"}
    os.environ.update({**build_environment(settings), **quiet})
    try:
        known = {s.name: s for s in build_services(settings)}
        services = [known["mlflow"], replace(known["service"], after=("mlflow",), needs=())]
        with running_stack(settings, services):
            registry, versions = _register(settings)
            for version in versions:  # both have served: a roll-back goes to what did
                registry.set_alias("champion", version)
                assert _serve(settings, version), version
            project = open_project(settings)
            with (
                keeping(project),
                steady_load(settings.service_url, bodies, CLIENTS, PAUSE) as load,
            ):
                assert _await(lambda: project.releases.last("champion") == versions[1])
                yield World(settings, project, versions, load)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(settings: Any, version: int) -> bool:
    from flows.traffic import await_version

    return await_version(settings.service_url, version, WORKERS, START) is not None


def _await(holds: Any) -> bool:
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _tell(name: str, value: Any, bar: Any, ok: bool) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok)}
