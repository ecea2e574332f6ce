"""No request is lost: champion swaps, kills, a hang, a rolling restart, registry and store down, under load.

Features of real flights online, two small models in a real MLflow, two replicas of two workers each behind
a real HAProxy. Eight clients of one connection each ask again 10 ms after they were answered, and retry
nothing; what they saw is what is counted.
"""

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.contract import Period
from tests.load import Load, Tally, steady_load

Figure = dict[str, Any]
NOW = datetime(2013, 1, 20, 18, tzinfo=UTC)  # the newest tick online
MONTH = Period(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 22, tzinfo=UTC))
REPLICAS, WORKERS, CLIENTS, PAUSE, SWAPS = 2, 2, 8, 0.01, 20
LIMIT = 120.0  # seconds that anything may take to come back


@dataclass
class World:
    """A home whose service runs as replicas."""

    settings: Any
    registry: Any
    mlflow: Any  # the stack of MLflow
    stack: Any  # that of the replicas
    versions: tuple[int, int]
    bodies: list[dict[str, Any]]
    load: Load

    @property
    def urls(self) -> dict[str, str]:
        """The replicas' own addresses."""
        return {one.name: one.url for one in self.stack.services if one.name != "balancer"}

    def pid(self, name: str) -> int:
        return self.stack.read().service(name).pid or 0

    def read_servers(self) -> dict[str, Any]:
        from flows.local.replicas import open_balancer

        return open_balancer(self.settings).read_servers()

    def are_up(self) -> bool:
        return all(one.up for one in self.read_servers().values())

    def is_whole(self, name: str, gone: Sequence[int] = ()) -> bool:
        """Tell whether all workers of a replica answer, none of them one that is gone."""
        pids = _find_workers(self.urls[name])
        return len(pids) == WORKERS and not pids & set(gone)


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    acknowledged: list[str] = []
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as world:
        scenes: dict[str, Callable[[World], dict[str, Any]]] = {
            f"{SWAPS} champion swaps": _swap,
            "kill -9 of one worker": _kill_worker,
            "kill -9 of one replica, all of its processes": _kill_replica,
            "one replica that hangs": _hang_replica,
            "rolling restart of all replicas": _restart,
            "registry that hangs, then is killed": _lose_registry,
            "online store that is gone, then back": _lose_store,
        }
        for name, play in scenes.items():
            _await(world.are_up)
            world.load.cut()
            told, seen = _watch(world, play)
            acknowledged += seen.ids
            ok = not seen.failed and seen.answered == seen.sent > 0 and told.pop("happened")
            yield _tell(f"requests that failed under load: {name}", {**seen.describe(), **told}, 0, ok)
        world.load.cut()
        direct = _control(world)
        seen = world.load.end()
        told = {"without the balancer": direct, "behind it at the same time": len(seen.failed)}
        name = "requests that failed as a replica was killed, as a control"
        yield _tell(name, told, "> 0 and 0", direct > 0 == len(seen.failed))
        acknowledged += seen.ids
        kept = _read_journal(world)
        missing = len(set(acknowledged) - kept)
        name = f"of {len(acknowledged)} answers that clients got, missing from the journal"
        yield _tell(name, missing, 0, missing == 0 < len(acknowledged))


def _watch(world: World, play: Callable[[World], dict[str, Any]]) -> tuple[dict[str, Any], Tally]:
    before = sum(one.retried for one in world.read_servers().values())
    told = play(world)
    retried = sum(one.retried for one in world.read_servers().values()) - before
    return {**told, "tried again by the balancer": retried}, world.load.cut()


def _swap(world: World) -> dict[str, Any]:
    """Move the champion back and forth, each time once all workers have followed."""
    for n in range(SWAPS):
        version = world.versions[(n + 1) % 2]
        world.registry.set_alias("champion", version)
        assert _follow(world, version), version
    return {"happened": True}


def _kill_worker(world: World) -> dict[str, Any]:
    name, url = next(iter(world.urls.items()))
    worker = min(_find_workers(url))
    os.kill(worker, signal.SIGKILL)
    return {"happened": _await(lambda: world.is_whole(name, [worker]))}


def _kill_replica(world: World) -> dict[str, Any]:
    name = next(iter(world.urls))
    gone = _signal_tree(world.pid(name), signal.SIGKILL)
    noticed = _await(lambda: not world.read_servers()[name].up)
    back = _await(lambda: world.is_whole(name, gone)) and _await(world.are_up)
    return {"happened": noticed and back}


def _hang_replica(world: World) -> dict[str, Any]:
    name = next(iter(world.urls))
    pid = world.pid(name)
    _signal_tree(pid, signal.SIGSTOP)
    try:
        noticed = _await(lambda: not world.read_servers()[name].up)
        threading.Event().wait(6)  # longer than the balancer waits for an answer
    finally:
        _signal_tree(pid, signal.SIGCONT)
    return {"happened": noticed and _await(world.are_up)}


def _restart(world: World) -> dict[str, Any]:
    from flows.local.rolling_restart import restart_replicas

    before = {name: world.pid(name) for name in world.urls}
    restart_replicas(world.settings)
    return {"happened": all(world.pid(name) not in (0, pid) for name, pid in before.items())}


def _lose_registry(world: World) -> dict[str, Any]:
    from flows.local.stack import check_health

    pid = world.mlflow.read().service("mlflow").pid
    _signal_tree(pid, signal.SIGSTOP)
    threading.Event().wait(6)  # longer than a worker waits for the registry
    _signal_tree(pid, signal.SIGKILL)
    lost = not check_health(world.mlflow.read())["mlflow"]
    back = _await(lambda: check_health(world.mlflow.read())["mlflow"])
    return {"happened": lost and back}


def _lose_store(world: World) -> dict[str, Any]:
    store = world.settings.home / "feast"
    hidden = store.with_name("hidden")
    store.rename(hidden)
    try:
        threading.Event().wait(4)
    finally:
        hidden.rename(store)
    threading.Event().wait(4)
    return {"happened": True}


def _control(world: World) -> int:
    """Kill a replica that clients ask without the balancer; return how many of their requests failed."""
    name, url = list(world.urls.items())[-1]
    with steady_load(url, world.bodies, CLIENTS // 2) as load:
        threading.Event().wait(2)
        assert not load.cut().failed
        _signal_tree(world.pid(name), signal.SIGKILL)
        threading.Event().wait(1)
        return len(load.end().failed)


@contextlib.contextmanager
def _running(home: Path) -> Iterator[World]:
    """Fill a home, run MLflow with two models, and start the replicas and the load."""
    from feature_repo.settings import Settings
    from flows.local.replicas import Layout, running_replicas
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment, build_services
    from tests.ports import find_free_port

    ports = {f"{name}_port": find_free_port() for name in ("prefect", "mlflow", "service", "runner")}
    settings = Settings(home=home, schedules=False, service_workers=WORKERS, **ports)
    layout = Layout(find_free_port(), find_free_port(), tuple(find_free_port() for _ in range(REPLICAS)))
    bodies = _fill_home(home)
    before = dict(os.environ)
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1"}
    os.environ.update({**build_environment(settings), **quiet})
    try:
        mlflow = [s for s in build_services(settings) if s.name == "mlflow"]
        with running_stack(settings, mlflow) as stack_of_mlflow:
            registry, versions = _register(settings)
            registry.set_alias("champion", versions[0])
            with (
                running_replicas(settings, layout) as stack,
                steady_load(stack.service("balancer").url, bodies, CLIENTS, PAUSE) as load,
            ):
                world = World(settings, registry, stack_of_mlflow, stack, versions, bodies, load)
                assert _follow(world, versions[0])
                yield world
    finally:
        os.environ.clear()
        os.environ.update(before)


def _fill_home(home: Path, month: Period = MONTH) -> list[dict[str, Any]]:
    """Compute real features, put them online, and return requests whose features are then fresh."""
    import polars as pl

    from feature_repo.problem import PROBLEM
    from feature_repo.store import FeatureStore
    from flows.traffic import to_json
    from tests.bench.bench_features import build_home

    build_home(home, month)
    store = FeatureStore(home, PROBLEM)
    store.apply()
    tables = {table.name: pl.read_delta(str(home / "lake" / table.name)) for table in PROBLEM.feature_tables}
    store.write_period(tables, Period(month.since, NOW))
    ahead = pl.col(PROBLEM.decided_at).is_between(NOW, NOW + timedelta(hours=8))
    rows = pl.read_parquet(home / "requests.parquet").filter(ahead).to_dicts()
    assert rows
    return [to_json(row, PROBLEM, NOW) for row in rows]


def _register(settings: Any) -> tuple[Any, tuple[int, int]]:
    """Register two small models with the real MLflow; return its registry and their versions."""
    from mlflow import MlflowClient

    from feature_repo.problem import PROBLEM
    from services.models import Registry
    from tests.packages import write_package

    client = MlflowClient(settings.mlflow_url)
    run = client.create_run(client.create_experiment("replicas")).info.run_id
    registry = Registry(settings.mlflow_url, PROBLEM.name)
    packages = [write_package(settings.home / "packages" / str(seed), PROBLEM, seed) for seed in (1, 2)]
    first, second = (registry.register(package, run, {}) for package in packages)
    return registry, (first, second)


def _follow(world: World, version: int) -> bool:
    from flows.traffic import await_version

    urls = world.urls.values()
    return all(await_version(url, version, WORKERS, LIMIT) is not None for url in urls)


def _find_workers(url: str) -> set[int]:
    """Return the processes that answer there; each connection may get another one."""
    import httpx

    pids = set()
    for _ in range(20 * WORKERS):
        try:
            pids.add(int(httpx.get(f"{url}/live", timeout=5).json()["pid"]))
        except httpx.HTTPError:
            return pids
        if len(pids) == WORKERS:
            break
    return pids


def _signal_tree(pid: int, number: int) -> list[int]:
    """Send a signal to a process and all below it; return their ids."""
    import psutil

    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return [process.pid for process in tree]


def _read_journal(world: World) -> set[str]:
    from services.journal import Journal

    always = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    journal = Journal(world.settings.home / "journal" / "journal.db")
    return set(journal.read_predictions(always)["prediction_id"])


def _await(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _tell(name: str, value: Any, bar: Any, ok: bool) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": bool(ok)}
