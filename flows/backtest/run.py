"""The backtest, put together: the past is read, each decision's model fitted once, every policy replayed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData, SettingsError
from flows.backtest.measures import (
    Worth,
    compare,
    find_oracle,
    measure_weeks,
    read_scores,
    value_policy,
)
from flows.backtest.models import ScoredModel, Teaching, fit_model, fit_models
from flows.backtest.record import Record, read_record, require_period
from flows.backtest.replay import Past, Replay, Span, list_decisions, replay_policy
from flows.ingest import landed_until
from flows.policy.retraining import POLICIES, RetrainPolicy
from flows.project import Project, to_utc

LEARNED_FROM = timedelta(days=56)  # before the period begins, where it is not said when


@dataclass(frozen=True)
class Backtest:
    """What came of it: each policy's worth, and the frozen model's weeks.

    frozen   fitted on every label known when the period begins, none held out, and left alone
    models   how many were fitted for all policies together, `seconds` the time that it took
    """

    problem: str
    period: Period
    worths: tuple[Worth, ...]
    frozen: Worth
    models: int
    seconds: float


def run_backtest(
    project: Project,
    period: Period | None = None,
    policies: Sequence[str] = tuple(POLICIES),
    jobs: int = 1,
    teaching: Teaching | None = None,
) -> Backtest:
    """Replay the policies over the period: by default from two months after the start to the newest data.

    Every policy starts with the same model, as training makes it when the period begins. Raises NotEnoughData
    if the home does not hold the period, and SettingsError for a policy that is none.
    """
    began, chosen = time.perf_counter(), choose_policies(policies)
    record = read_record(project)
    period = period or default_period(project)
    require_period(project, record, period.since, period.until)
    past, frozen = _prepare(project, record, period, teaching or Teaching(project.build_estimator), jobs)
    replays = [replay_policy(policy, past) for policy in chosen]
    left_alone = Replay("frozen", (Span(frozen, period),), ())
    weeks = measure_weeks(read_scores(left_alone, record), past)
    oracle = find_oracle(past, [frozen])
    worths = {r.policy: value_policy(r, past, weeks, oracle) for r in (*replays, left_alone)}
    scores = {r.policy: read_scores(r, record) for r in (*replays, left_alone)}
    told = tuple(
        replace(worths[r.policy], differences=compare(r.policy, scores, worths, past)) for r in replays
    )
    count = 2 + sum(model is not None for model in past.models.values())
    seconds = time.perf_counter() - began
    return Backtest(project.problem.name, period, told, worths["frozen"], count, seconds)


def choose_policies(names: Sequence[str]) -> list[RetrainPolicy]:
    """Return the policies of these names, each once. Raises SettingsError for a name that is none."""
    unknown = [name for name in names if name not in POLICIES]
    if unknown or not names:
        raise SettingsError(
            "policies of the backtest",
            got=", ".join(unknown) or "none",
            expected=f"some of {', '.join(POLICIES)}",
            next_step="Name them with commas between, or leave them out to see all.",
        )
    return [POLICIES[name] for name in dict.fromkeys(names)]


def default_period(project: Project) -> Period:
    """Return the first local month that begins two months of data after the start, up to the newest data."""
    zone = ZoneInfo(project.problem.time_zone)
    learned = (project.problem.start + LEARNED_FROM).astimezone(zone)
    month = learned.month % 12 + 1 if learned.day > 1 else learned.month
    since = to_utc(datetime(learned.year + (month < learned.month), month, 1, tzinfo=zone))
    return Period(since, max(since, landed_until(project)))


def _prepare(
    project: Project, record: Record, period: Period, teaching: Teaching, jobs: int
) -> tuple[Past, ScoredModel]:
    decisions = list_decisions(record.problem, period)
    instants = [period.since, *(decision.at for decision in decisions)]
    whole = replace(teaching, holdout=timedelta(0))
    frozen = fit_model(record, period.since, whole)
    models = fit_models(record, instants, teaching, jobs)
    first = models.pop(period.since)
    if first is None or frozen is None:
        raise NotEnoughData(
            f"backtest of {record.problem.name} from {period.since:%Y-%m-%d}",
            got=f"{record.find(period.since)} rows before it",
            expected=f"{teaching.min_rows} or more, and {teaching.holdout.days} days of newer ones",
            next_step="Begin later, or take in more of the past with `perennial backfill`.",
        )
    return Past(record, period, first, models, decisions), frozen
