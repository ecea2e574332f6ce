"""Logical days played with traffic, and the runs of Prefect that they lead to: for the demo and the drill."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feature_repo.errors import StackError

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.contract import Period
    from flows.project import Project
    from flows.traffic import Load

Rows = Sequence[dict[str, Any]]
HOUR = timedelta(hours=1)


@contextmanager
def without_heartbeat() -> Iterator[None]:
    """Run flows without a heartbeat: ending it takes a second, and these die with this process."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def play_hours(
    project: "Project",
    period: "Period",
    frames: Mapping[str, "pl.DataFrame"],
    per_day: int,
    load: "Load",
    send: Callable[[Rows], None],
    on_hour: Callable[[datetime], bool] = lambda hour: True,
    after_hour: Callable[[datetime], None] = lambda hour: None,
) -> None:
    """Send what is asked in each hour of the period, then put the hour's features online.

    on_hour     is called at the end of each hour, before its features go online; False keeps them back
    after_hour  is called once they are online, or kept back
    """
    import polars as pl

    from feature_repo.contract import Period
    from flows.features import materialize_period
    from flows.traffic import sample_requests

    problem = project.problem
    ahead = Period(period.since - timedelta(days=2), period.until)
    upcoming = problem.build_requests({"schedule": project.lake.read("schedule", ahead)})
    today = sample_requests(upcoming, problem, period, per_day)
    # The timetable of the next morning is known; the load asks about it when the day is over.
    tomorrow = Period(period.until, period.until + timedelta(days=1))
    later = pl.concat([today, sample_requests(upcoming, problem, tomorrow, per_day)])
    hour = online = period.since
    while hour < period.until:
        within = pl.col(problem.decided_at).is_between(hour, hour + HOUR, closed="left")
        if rows := today.filter(within).to_dicts():
            send(rows)
        hour += HOUR
        if on_hour(hour):
            materialize_period(project, frames, Period(online, hour))
            online = hour
            load.point_at(later, hour)
        after_hour(hour)


def await_retrain(known: Collection[str], limit: float) -> dict[str, str]:
    """Wait for a run of `retrain` that an automation started and that is not known yet; describe it.

    Raises StackError if none has ended within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if found := find_retrain(known):
            return found
        time.sleep(0.5)
    raise StackError(
        "retrain",
        got=f"no finished run within {limit:.0f} s",
        expected="the automation to run it",
        next_step="Look at the runs in the Prefect UI and at logs/runner.log.",
    )


def list_retrains() -> set[str]:
    """Return the ids of such runs that have ended so far."""
    known: set[str] = set()
    while found := find_retrain(known):
        known.add(found["run"])
    return known


def find_retrain(known: Collection[str]) -> dict[str, str] | None:
    """Return id, state and reason of the newest such run that has ended, or None."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["retrain"])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=20,
        )
    for run in runs:
        if str(run.id) in known or run.state is None or not run.state.is_final():
            continue
        if run.parameters.get("reason") and run.auto_scheduled is False:
            reason = str(run.parameters.get("reason"))
            return {"run": str(run.id), "state": run.state.name or "", "reason": reason}
    return None
