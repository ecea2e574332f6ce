"""A policy replayed over a past period: watched, asked, trained, judged by the gate, week after week.

Decisions fall when a week's labels are all known, as in production: a week of the problem's calendar and one
horizon later. A candidate that the gate passes serves from that instant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import polars as pl

from feature_repo.contract import Period, Problem
from flows.backtest.models import ScoredModel
from flows.backtest.record import KNOWN_AT, Record
from flows.judgement import compare_inputs
from flows.package import REFERENCE_ROWS
from flows.policy.gate import Evidence, GateVerdict, judge_scores
from flows.policy.patience import EVENT, SCHEDULE, Tried, may_retrain
from flows.policy.quality import judge_quality
from flows.policy.retraining import RetrainPolicy, Situation, ask
from flows.policy.trigger import TriggerPolicy, WindowSigns, name_breaches
from flows.served import Champion, list_columns

T = TypeVar("T")
NO_CANDIDATE = ("no candidate: too few rows to fit on, or none newer",)


@dataclass(frozen=True)
class Decision:
    """An instant at which a week's labels are all known, and the week."""

    at: datetime
    window: Period


@dataclass(frozen=True)
class Request:
    """One retrain that a policy asked for: why, and what became of it."""

    at: datetime
    causes: tuple[str, ...]
    passed: bool
    reasons: tuple[str, ...]
    seconds: float  # of fitting


@dataclass(frozen=True)
class Span:
    """A model and the stretch in which it served."""

    model: ScoredModel
    period: Period


@dataclass(frozen=True)
class Replay:
    """What a policy came to: what served when, and every retrain that it asked for."""

    policy: str
    spans: tuple[Span, ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Past:
    """The period to replay, the model that serves when it begins, and the one of each decision.

    `memory` keeps what does not depend on the policy, so that it is judged once.
    """

    record: Record
    period: Period
    first: ScoredModel
    models: Mapping[datetime, ScoredModel | None]
    decisions: Sequence[Decision]
    memory: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def recall(self, key: tuple[Any, ...], find: Callable[[], T]) -> T:
        """Return what was found for the key before, or find it."""
        if key not in self.memory:
            self.memory[key] = find()
        return self.memory[key]


def list_decisions(
    problem: Problem, period: Period, policy: TriggerPolicy = TriggerPolicy()
) -> list[Decision]:
    """Return the period's decisions, oldest first: one for each of the problem's weeks."""
    count = (period.until - problem.horizon - problem.start) // policy.window
    windows = [
        Period(problem.start + i * policy.window, problem.start + (i + 1) * policy.window)
        for i in range(max(0, count))
    ]
    found = [Decision(window.until + problem.horizon, window) for window in windows]
    return [one for one in found if period.since < one.at < period.until]


def replay_policy(policy: RetrainPolicy, past: Past) -> Replay:
    """Return what the policy would have done in the period."""
    zone = ZoneInfo(past.record.problem.time_zone)
    serving, since, spans = past.first, past.period.since, list[Span]()
    history, requests = list[WindowSigns](), list[Request]()
    tried = list[Tried]()
    rejected, asked_on = None, since.astimezone(zone).date()
    for decision in past.decisions:
        signs = watch_week(policy, past, serving, since, decision)
        history += [signs] if signs else []
        today = decision.at.astimezone(zone).date()
        trigger = ask(policy, Situation(today, asked_on, history, serving.trained_until, rejected))
        if not trigger.retrain:
            continue
        asked_on, candidate = today, past.models[decision.at]
        cause = EVENT if policy.trigger else SCHEDULE
        if not may_retrain(tried, cause=cause, until=decision.at).granted:
            rejected = decision.window.until
            continue
        verdict = judge_candidate(past, candidate, serving) if candidate else None
        passed, reasons = (verdict.passed, verdict.reasons) if verdict else (False, NO_CANDIDATE)
        seconds = candidate.seconds if candidate else 0.0
        requests.append(Request(decision.at, trigger.causes, passed, reasons, seconds))
        if verdict:
            tried.append(Tried(decision.at, passed, behind=verdict.behind, cause=cause))
        if candidate is None or not passed:
            rejected = decision.window.until
            continue
        spans.append(Span(serving, Period(since, decision.at)))
        serving, since, history, rejected = candidate, decision.at, [], None
    spans.append(Span(serving, Period(since, past.period.until)))
    return Replay(policy.name, tuple(spans), tuple(requests))


def watch_week(
    policy: RetrainPolicy, past: Past, model: ScoredModel, since: datetime, decision: Decision
) -> WindowSigns | None:
    """Return what the monitor says of the model's answers in the week, or None if it answered nothing."""
    window, record = decision.window, past.record
    rows = slice(record.find(max(window.since, since)), record.find(window.until))
    if not policy.watches or rows.stop <= rows.start:
        return None

    def judge_labels() -> tuple[tuple[str, ...], tuple[str, ...]]:
        known = (record.rows[KNOWN_AT][rows] < decision.at).to_numpy()
        now = model.read(rows)[known], record.outcomes[rows][known]
        held = _read_reference(past, model)
        then = held["score"].to_numpy(), held[record.problem.target].cast(pl.Float64).to_numpy()
        verdict = judge_quality(now, then, arrived=float(known.mean()), mature=True)
        return verdict.breaches, verdict.reasons

    def judge_inputs() -> float:
        champion = _describe_champion(past, model)
        current, columns = record.rows[rows], list_columns(champion.contract, record.problem)
        verdict = compare_inputs(champion, current, columns, record.problem, window)
        return verdict.drifted_importance

    key = (model.until, rows.start, rows.stop)
    breaches, reasons = past.recall(("quality", *key), judge_labels)
    drifted = past.recall(("drift", *key), judge_inputs) if "drift" in policy.watches else 0.0
    return WindowSigns(
        window.until, name_breaches(breaches, drifted, policy.trigger or TriggerPolicy()), reasons
    )


def judge_candidate(past: Past, candidate: ScoredModel, champion: ScoredModel) -> GateVerdict:
    """Return the gate's verdict on rows that neither model learned from."""
    key = ("gate", candidate.until, champion.until)
    return past.recall(key, lambda: _judge(past, candidate, champion))


def _judge(past: Past, candidate: ScoredModel, champion: ScoredModel) -> GateVerdict:
    record, problem = past.record, past.record.problem
    start = max(candidate.first, champion.first, record.find(champion.trained_until))
    span = slice(start, record.find(candidate.until))
    rows = record.rows[span]
    newer = (rows[KNOWN_AT] < candidate.until) & (rows[problem.decided_at] > champion.trained_until)
    newer &= rows[problem.decided_at] < candidate.until - problem.horizon
    kept, judged = newer.to_numpy(), rows.filter(newer)
    evidence = Evidence(
        outcomes=record.outcomes[span][kept],
        candidate=candidate.read(span)[kept],
        rivals={"champion": champion.read(span)[kept]},
        days=record.local_days[span].filter(newer).cast(pl.Int64).to_numpy(),
        slices={c: judged[c].fill_null("missing").to_numpy().astype(str) for c in problem.slices},
        latency_ms=None,
    )
    # How a version answers, and whether its inputs hold, is asked of versions, and here there are none.
    return judge_scores(evidence)


def _read_reference(past: Past, model: ScoredModel) -> pl.DataFrame:
    span = slice(model.first, past.record.find(model.until))
    rows = past.record.rows[span].with_columns(score=pl.Series(model.read(span)))
    held = rows.filter(pl.col(KNOWN_AT) < model.until)
    return held.gather_every(max(1, -(-len(held) // REFERENCE_ROWS)))


def _describe_champion(past: Past, model: ScoredModel) -> Champion:
    features = [
        {"name": f.name, "kind": f.kind, "importance": model.importance.get(f.name, 0.0)}
        for f in past.record.problem.features
    ]
    contract = {"features": features, "trained_until": model.trained_until.isoformat()}
    return Champion(f"{model.until:%Y-%m-%d}", contract, _read_reference(past, model))
