"""The real local stack for tests: in a home and on ports of its own, with real flights in it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.contract import Period
    from flows.local.stack import Stack
    from flows.project import Project

SERVERS = ("prefect", "mlflow", "service", "runner", "reports", "evidently")


def find_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def settle(home: Path) -> Settings:
    """Return settings for a stack of its own, in which nothing runs by itself."""
    ports = {f"{name}_port": port for name, port in zip(SERVERS, find_ports(len(SERVERS)), strict=True)}
    return Settings(home=home, schedules=False, **ports)


@contextlib.contextmanager
def started_stack(settings: Settings) -> Iterator["Stack"]:
    """Hold a stack, with this process' environment pointing at it."""
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment

    before = dict(os.environ)
    os.environ.update(build_environment(settings))
    try:
        with running_stack(settings) as stack:
            yield stack
    finally:
        os.environ.clear()
        os.environ.update(before)


def land(project: "Project", period: "Period") -> dict[str, "pl.DataFrame"]:
    """Land a stretch as one batch a table, which is quicker than a batch a day; return its features."""
    from flows.features import build_features
    from flows.ingest import ingest_period

    assert {manifest.status for manifest in ingest_period(project, period)} == {"landed"}
    return build_features(project, period)


def train_first(project: "Project", until: date) -> int:
    """Train on what has landed before the day, and return the version once every worker serves it."""
    from flows.releasing.release import promote_version
    from flows.retrain import retrain
    from flows.traffic import await_version

    settings = project.settings
    version = int(str(retrain(until=project.day(until).since, reason="first model")["version"]))
    promote_version(project, version, "first model", by_hand=True)
    assert await_version(settings.service_url, version, settings.service_workers, 60) is not None
    return version


def live_through(project: "Project", period: "Period", per_day: int) -> int:
    """Land the period, ask about its flights hour by hour, label the answers; return how many there were."""
    import httpx
    import polars as pl

    from feature_repo.contract import Period
    from flows.features import materialize_period
    from flows.label import label_period
    from flows.traffic import ask, sample_requests

    problem, hour, answered = project.problem, period.since, 0
    frames = land(project, period)
    schedule = project.lake.read("schedule", Period(period.since - timedelta(days=2), period.until))
    size = per_day * (period.until - period.since).days
    asked = sample_requests(problem.build_requests({"schedule": schedule}), problem, period, size)
    with httpx.Client() as client:
        while hour < period.until:
            ahead = Period(hour, hour + timedelta(hours=1))
            due = pl.col(problem.decided_at).is_between(ahead.since, ahead.until, closed="left")
            rows = asked.filter(due).to_dicts()
            answered += ask(client, project.settings.service_url, rows, problem).total()
            materialize_period(project, frames, ahead)
            hour = ahead.until
    label_period(project.lake, project.journal, problem, period)
    return answered
