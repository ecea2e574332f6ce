"""A world that is watched: the real service under load, reports, Prometheus, Alertmanager and a webhook.

The model is the bench's, trained on real flights; two workers answer real flights from values online. Lake
and journal hold what the real ingest and the real monitor made: days and weeks of answers are journalled, and
the monitor judges them and tells of them as in the daily loop. The configuration is that of infra, with all
its durations shortened by the same factor.

The answers of a day are drawn from the model's reference, of the same weekday: what is proved here is that an
incident reaches people, and nothing else may raise one. What real weeks raise has proofs of its own.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from feature_repo.contract import Delivery, Period
from feature_repo.problem import PROBLEM
from feature_repo.settings import Settings
from flows.project import Project, open_project
from services.journal import Outcome, Prediction, format_instant
from tests.bench.serving.material import Material, prepare, write_model
from tests.load import Load, steady_load
from tests.ports import find_free_port
from tests.prometheus.receiver import Receiver, receiving

WORKERS, CLIENTS, PAUSE = 2, 3, 0.03
PACE = 1 / 20  # 5 minutes become 15 seconds
DAY, WEEK = timedelta(days=1), timedelta(days=7)
BEGIN = PROBLEM.start + 51 * WEEK  # of the first window; later by weeks than what is asked of the service
SEED = 20131224
FIRST = date(2013, 10, 15)  # the first day that is taken in
LIMIT = 120.0  # seconds that anything may take to come about
PORTS = ("prefect", "mlflow", "service", "runner", "reports", "prometheus", "alertmanager", "balancer_stats")


@dataclass
class World:
    """What runs, and what a scene may turn."""

    settings: Settings
    project: Project
    material: Material
    registry: Any
    version: int
    package: Path
    receiver: Receiver
    load: Load
    damaged: set[date] = field(default_factory=set)  # days whose weather the source delivers broken
    lived: datetime = BEGIN  # up to where answers are journalled

    @property
    def journal_lock(self) -> Path:
        """The lock that those who write the journal share."""
        return self.settings.home / "journal" / "journal.db-lock"

    def ask_prometheus(self, query: str) -> list[dict[str, Any]]:
        """Return what a query gives now."""
        import httpx

        url = f"http://127.0.0.1:{self.settings.prometheus_port}/api/v1/query"
        told = httpx.get(url, params={"query": query}, timeout=10).raise_for_status().json()
        return told["data"]["result"]

    def await_quiet(self) -> bool:
        """Wait until no alert fires or is about to; return whether that came about."""
        return await_holds(lambda: not self.ask_prometheus("ALERTS"))

    def take_in(self, day: date) -> list[str]:
        """Take a day in as ingest does; return what became of each table."""
        from flows.data_quality import write_metrics
        from flows.ingest import ingest_period

        manifests = ingest_period(self.project, self.project.day(day))
        write_metrics(self.project)
        return [one.status for one in manifests]

    def live(self, days: int, *, drifted: bool = False, wrong: bool = False) -> None:
        """Journal the answers of some more days, and what is known of their outcomes by then.

        drifted  numbers are in another unit
        wrong    the outcomes are the opposite of what they were
        """
        from flows.label import label_period

        since = self.lived
        for _ in range(days):
            answers, outcomes = draw_answers(
                self.package, self.lived, self.version, drifted=drifted, wrong=wrong
            )
            self.project.journal.append(answers)
            self.project.journal.submit_outcomes(outcomes).result()
            self.lived += DAY
        known = Period(since, self.lived)
        label_period(self.project.lake, self.project.journal, self.project.problem, known)

    def watch(self) -> dict[str, tuple[str, ...]]:
        """Judge and tell what is due, as the daily loop does; return what weeks breached and days raised."""
        from flows.announce import announce
        from flows.monitor import run_monitor

        findings = run_monitor(
            self.project.lake,
            self.project.journal,
            self.project.problem,
            self.package,
            self.settings.home / "reports",
            version=str(self.version),
            until=self.lived,
        )
        announce(self.project)
        told = {verdict.key: (*verdict.breaches, *verdict.alarms) for verdict in findings.days}
        return told | {verdict.key: verdict.breaches for verdict in findings.verdicts}


@contextlib.contextmanager
def running_world(home: Path, *, pace: float = PACE) -> Iterator[World]:
    """Start everything, and yield once the champion answers and what is watched is watched."""
    from flows.local.prometheus import read_watch, running_monitoring
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment, build_services

    material = prepare()
    ports = {f"{name}_port": find_free_port() for name in PORTS}
    home.mkdir(parents=True, exist_ok=True)
    for name in ("feast", "lake"):
        shutil.copytree(material.home / name, home / name)
    with contextlib.ExitStack() as held:
        receiver = held.enter_context(receiving())
        settings = Settings(
            home=home,
            schedules=False,
            service_workers=WORKERS,
            alert_webhook=receiver.url,
            evidently_port=0,  # its UI comes after the runner, and neither is watched
            **ports,
        )
        held.enter_context(changed_environment(build_environment(settings)))
        services = [one for one in build_services(settings) if one.name != "runner"]
        package = write_model(material, home / "package")
        held.enter_context(running_stack(settings, services))
        registry, version = register(settings, package)
        await_champion(settings, version)
        load = held.enter_context(steady_load(settings.service_url, material.flights, CLIENTS, PAUSE))
        project, damaged = open_fragile(settings)
        world = World(settings, project, material, registry, version, package, receiver, load, damaged)
        world.take_in(FIRST)
        world.live(9)
        world.watch()
        held.enter_context(running_monitoring(settings, pace=pace))
        assert await_holds(lambda: read_watch(settings).ok and bool(read_watch(settings).targets))
        yield world


def open_fragile(settings: Settings) -> tuple[Project, set[date]]:
    """Return the project over a source that delivers no weather but its header on days of one's choice."""
    project, damaged = open_project(settings), set()

    def fetch(table: str, period: Period) -> Delivery:
        told = project.fetch(table, period)
        if table != "weather" or project.local_day(period.since) not in damaged:
            return told
        return dataclasses.replace(told, frame=told.frame.clear())

    return dataclasses.replace(project, fetch=fetch), damaged


def register(settings: Settings, package: Path) -> tuple[Any, int]:
    """Register the model twice with the real MLflow; the second is the champion, the first the previous."""
    from mlflow import MlflowClient

    from services.models import Registry

    client, registry = MlflowClient(settings.mlflow_url), Registry(settings.mlflow_url, PROBLEM.name)
    run = client.create_run(client.create_experiment("monitored")).info.run_id
    versions = {alias: registry.register(package, run, {}) for alias in ("previous", "champion")}
    for alias, version in versions.items():
        registry.set_alias(alias, version)
    return registry, versions["champion"]


def await_champion(settings: Settings, version: int) -> None:
    """Wait until every worker serves the version."""
    from flows.traffic import await_version

    assert await_version(settings.service_url, version, WORKERS, LIMIT) is not None, version


def draw_answers(
    package: Path, day: datetime, version: int, *, drifted: bool = False, wrong: bool = False
) -> tuple[list[Prediction], list[Outcome]]:
    """Return answers of a day as the model's reference has them of that weekday, and their outcomes."""
    held = pl.read_parquet(package / "reference.parquet").drop_nulls(PROBLEM.target)
    weekday = pl.col("decided_at").dt.convert_time_zone(PROBLEM.time_zone).dt.weekday()
    local = day.astimezone(ZoneInfo(PROBLEM.time_zone))
    same = held.filter(weekday == local.isoweekday())
    days = same["decided_at"].dt.convert_time_zone(PROBLEM.time_zone).dt.date().n_unique()
    rows = same.sample(len(same) // days, with_replacement=True, seed=SEED + day.toordinal())
    if drifted:
        numbers = [f.name for f in PROBLEM.features if f.kind == "number"]
        moved = [name for name in numbers if name not in PROBLEM.calendar]
        rows = rows.with_columns(pl.col(moved) * 10 + 1)
    answers, outcomes = [], []
    for number, row in enumerate(rows.iter_rows(named=True)):
        then = row["decided_at"].astimezone(local.tzinfo)
        at = day + timedelta(hours=then.hour, minutes=then.minute)
        identity = f"{day:%Y%m%d}-{number}"
        features = json.dumps({name: row[name] for name in PROBLEM.feature_names})
        asked = format_instant(at)
        told = (identity, identity, asked, asked, str(version), "champion", "ok", row["score"], features)
        answers.append(Prediction(*told, "[]", "{}"))
        late = float(row[PROBLEM.target])
        outcomes.append(Outcome(identity, None, 1 - late if wrong else late, "arrived", at))
    return answers, outcomes


@contextlib.contextmanager
def changed_environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for as long as the block lasts."""
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1"}
    before = dict(os.environ)
    os.environ.update({**values, **quiet})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def await_holds(holds: Callable[[], bool], limit: float = LIMIT) -> bool:
    """Wait until it holds; return whether it does in time."""
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
