"""The backtest, put together: the past is read, each decision's model fitted once, every policy replayed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

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
    """What came of it: each policy's worth.

    models   how many were fitted for all policies together, `seconds` the time that it took
    """

    problem: str
    period: Period
    worths: tuple[Worth, ...]
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

    Every policy starts with the same model, fitted on all labels known when the period begins. Raises
    NotEnoughData if the home does not hold the period, and SettingsError for a policy that is none.
    """
    began, chosen = time.perf_counter(), choose_policies(policies)
    record = read_record(project)
    period = period or default_period(project)
    require_period(project, record, period.since, period.until)
    past = _prepare(record, period, teaching or Teaching(project.build_estimator), jobs)
    replays = [replay_policy(policy, past) for policy in chosen]
    scores = {replay.policy: read_scores(replay, record) for replay in replays}
    frozen = measure_weeks(read_scores(Replay("frozen", (Span(past.first, period),), ()), record), past)
    oracle = find_oracle(past)
    worths = {replay.policy: value_policy(replay, past, frozen, oracle) for replay in replays}
    told = tuple(
        replace(worth, differences=compare(name, scores, worths, past)) for name, worth in worths.items()
    )
    count = 2 + sum(model is not None for model in past.models.values())
    return Backtest(project.problem.name, period, told, count, time.perf_counter() - began)


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


def _prepare(record: Record, period: Period, teaching: Teaching, jobs: int) -> Past:
    decisions = list_decisions(record.problem, period)
    instants = [period.since, *(decision.at for decision in decisions)]
    models = fit_models(record, instants, teaching, jobs)
    whole = fit_model(record, period.since, replace(teaching, holdout=timedelta(0)))
    held = models.pop(period.since)
    if whole is None or held is None:
        raise NotEnoughData(
            f"backtest of {record.problem.name} from {period.since:%Y-%m-%d}",
            got=f"{record.find(period.since)} rows before it",
            expected=f"{teaching.min_rows} or more, and {teaching.holdout.days} days of newer ones",
            next_step="Begin later, or take in more of the past with `perennial backfill`.",
        )
    return Past(record, period, join_first(whole, held), models, decisions)


def join_first(whole: ScoredModel, held: ScoredModel) -> ScoredModel:
    """Return the model that stands when the period begins: it learned from all that was known.

    There is no champion yet that it had to be held against. What the monitor compares with, the newest days,
    is as the model scored them that did not learn from these.
    """
    early = held.scores[: whole.first - held.first]
    scores = np.concatenate([early, whole.scores])
    return replace(whole, importance=held.importance, first=held.first, scores=scores)
