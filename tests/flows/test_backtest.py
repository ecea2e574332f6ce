"""Policy backtest: a past period replayed on the toy problem, with the code that runs nightly."""

import dataclasses
import functools
import json
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData, SettingsError
from flows.backtest import models
from flows.backtest.models import ScoredModel, Teaching, fit_model
from flows.backtest.picture import draw_backtest
from flows.backtest.record import KNOWN_AT, Record, read_record
from flows.backtest.replay import Decision, Past, judge_candidate, list_decisions, replay_policy, watch_week
from flows.backtest.report import HEAD, list_lines, list_remarks, to_json
from flows.backtest.run import run_backtest
from flows.features import build_features
from flows.ingest import ingest_period
from flows.policy.patience import PatiencePolicy, may_retrain
from flows.policy.retraining import POLICIES
from flows.project import Project
from tests import toy

DAY, WEEK = timedelta(days=1), timedelta(days=7)
PERIOD = Period(toy.START + 30 * DAY, toy.START + 60 * DAY)


def build_small(problem):
    """A quick estimator: what is tested is the replay, not the learning."""
    from flows.model import build_linear

    return build_linear(problem)


TEACHING = Teaching(build_small, min_rows=1_000)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The toy problem with sixty days landed; one day in the period brought nothing."""
    from feature_repo.lake import Lake
    from feature_repo.settings import Settings

    settings = Settings(home=tmp_path_factory.mktemp("backtest"), mlflow_port=1)
    fetch, quiet = toy.open_toy_source(60), PERIOD.since + 10 * DAY

    def fetch_with_gap(table: str, period: Period):
        told = fetch(table, period)
        gone = pl.col("known_at").is_between(quiet, quiet + DAY, closed="left")
        return dataclasses.replace(told, frame=told.frame.filter(~gone)) if table == "orders" else told

    project = Project(
        settings=settings,
        problem=toy.TOY,
        fetch=fetch_with_gap,
        suite=lambda table, period: [],
        add_check_columns=toy.add_check_columns,
        build_estimator=build_small,
        lake=Lake(settings.home / "lake"),
    )
    period = Period(toy.START, PERIOD.until)
    ingest_period(project, period)
    build_features(project, period)
    return project


@pytest.fixture(scope="module")
def record(project: Project) -> Record:
    """All that landed, labelled."""
    return read_record(project)


def make_past(
    record: Record, better: float = 0.0, choose: Callable[[Decision], bool] = lambda d: True
) -> Past:
    """A past whose first model says a base rate, and whose candidates get a hint, right by 0.5 + `better`."""
    decisions = list_decisions(record.problem, PERIOD)
    rate, right = 0.25, 0.5 + better
    hints = record.outcomes == (np.random.default_rng(0).random(len(record.outcomes)) < right)

    def score(at, better):
        first = record.find(at - 2 * WEEK)
        if_late, if_not = rate * right, (1 - rate) * (1 - right)
        told = np.where(
            hints[first:],
            if_late / (if_late + if_not),
            rate * (1 - right) / (rate * (1 - right) + (1 - rate) * right),
        )
        scores = told if better else np.full(len(told), rate)
        return ScoredModel(at, at - 2 * WEEK, 5_000, 1.0, "expanding", {"amount": 1.0}, first, scores)

    candidates = {d.at: score(d.at, better) if choose(d) else None for d in decisions}
    return Past(record, PERIOD, score(PERIOD.since, 0.0), candidates, decisions)


def test_no_row_is_learned_from_before_its_label_is_known(record: Record) -> None:
    """A model learns from labels known at its instant, older than what is held out."""
    found = fit_model(record, PERIOD.since, TEACHING)
    known = record.rows.filter(
        pl.col(KNOWN_AT) < PERIOD.since, pl.col("decided_at") < PERIOD.since - 2 * WEEK
    )
    assert found is not None
    assert found.rows == len(known)
    assert found.trained_until == known["decided_at"].max()


def test_a_model_does_not_tell_of_rows_that_it_may_have_learned_from(record: Record) -> None:
    """Scores of its own past would flatter it."""
    found = fit_model(record, PERIOD.since, TEACHING)
    with pytest.raises(IndexError, match="may have learned"):
        found.read(slice(found.first - 1, found.first + 10))


def test_a_model_is_fitted_once_and_kept(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows, instant and code give the kept model, in a later run too; other code does not."""
    first = fit_model(record, PERIOD.since, TEACHING)

    def refuse(*arguments):
        raise AssertionError("fitted again")

    monkeypatch.setattr(models, "_fit_and_keep", refuse)
    again = fit_model(record, PERIOD.since, TEACHING)
    assert np.array_equal(first.scores, again.scores)
    other = dataclasses.replace(TEACHING, holdout=WEEK)
    with pytest.raises(AssertionError, match="fitted again"):
        fit_model(record, PERIOD.since, other)


def test_a_kill_while_a_model_is_kept_leaves_none(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file is no model: the next run fits it."""
    teaching = dataclasses.replace(TEACHING, holdout=10 * DAY)

    def die(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            fit_model(record, PERIOD.since, teaching)
    assert fit_model(record, PERIOD.since, teaching).rows > 1_000


def test_decisions_fall_when_a_weeks_labels_are_all_known(record: Record) -> None:
    """One decision a week of the problem's calendar, a horizon after the week's end, inside the period."""
    decisions = list_decisions(record.problem, PERIOD)
    assert [d.at - d.window.until for d in decisions] == [toy.TOY.horizon] * len(decisions)
    assert all((d.window.since - toy.START) % WEEK == timedelta(0) for d in decisions)
    assert {later.at - one.at for one, later in pairwise(decisions)} == {WEEK}
    assert PERIOD.since < decisions[0].at
    assert decisions[-1].at < PERIOD.until


def test_a_better_candidate_serves_and_one_no_better_does_not(record: Record) -> None:
    """The gate decides in the replay as it does nightly, and its reasons are kept."""
    good, same = (replay_policy(POLICIES["weekly"], make_past(record, share)) for share in (0.3, 0.0))
    assert good.requests[0].passed
    assert len(good.spans) > 1
    assert not any(r.passed for r in same.requests)
    assert all("better than the champion" in r.reasons[0] for r in same.requests)
    assert len(same.spans) == 1


def test_a_replay_holds_what_the_loop_holds(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """After rejections in a row that came no nearer nothing is fitted for a while, as in production."""
    asked = len(replay_policy(POLICIES["weekly"], make_past(record)).requests)
    patient = functools.partial(may_retrain, policy=PatiencePolicy(rejections=1))
    monkeypatch.setattr("flows.backtest.replay.may_retrain", patient)
    held = replay_policy(POLICIES["weekly"], make_past(record)).requests
    assert asked == len(list_decisions(record.problem, PERIOD)) > len(held) == 1


def test_spans_follow_each_other_and_fill_the_period(record: Record) -> None:
    """At any instant of the period exactly one model serves."""
    spans = replay_policy(POLICIES["weekly"], make_past(record, 0.3)).spans
    ends = [span.period.until for span in spans]
    assert [span.period.since for span in spans] == [PERIOD.since, *ends[:-1]]
    assert ends[-1] == PERIOD.until


def test_without_a_candidate_the_old_model_goes_on(record: Record) -> None:
    """Too few rows to train on is a request that came to nothing, and says so."""
    replay = replay_policy(POLICIES["weekly"], make_past(record, 0.3, choose=lambda d: False))
    assert len(replay.spans) == 1
    assert {r.reasons for r in replay.requests} == {("no candidate: too few rows to fit on, or none newer",)}


def test_the_gate_judges_only_labels_known_when_it_decides(record: Record) -> None:
    """Outcomes that come later cannot help a candidate."""
    past = make_past(record, 0.3)
    at = past.decisions[0].at
    unknown = (record.rows[KNOWN_AT] >= at).to_numpy()
    candidate = past.models[at]
    scores = np.where(unknown[candidate.first :], np.nan, candidate.scores)
    passed = judge_candidate(past, dataclasses.replace(candidate, scores=scores), past.first).passed
    assert passed


def test_a_week_without_rows_says_nothing(record: Record) -> None:
    """Nothing was answered: there is no sign, and no retrain for it."""
    past = make_past(record)
    empty = Decision(PERIOD.until + WEEK, Period(PERIOD.until + 20 * DAY, PERIOD.until + 27 * DAY))
    assert watch_week(POLICIES["combined"], past, past.first, PERIOD.since, empty) is None


def test_a_week_of_one_outcome_breaches_nothing_and_is_not_measured(record: Record) -> None:
    """No AUC can be told of it: the monitor has no verdict, and the week no figure."""
    from flows.backtest.measures import measure_rows

    rows = record.rows.with_columns(returned=pl.lit(0, pl.Int8))
    past = make_past(dataclasses.replace(record, rows=rows))
    signs = watch_week(POLICIES["quality"], past, past.first, PERIOD.since, past.decisions[1])
    assert signs.breaches == ()
    assert "no quality verdict" in signs.reasons[0]
    assert np.isnan(measure_rows("", PERIOD.since, np.full(9, 0.2), np.zeros(9)).auc)


def test_a_model_that_fails_is_replaced_by_the_policy_that_watches(record: Record) -> None:
    """Scores turned upside down are a breach of quality, and the next good candidate takes over."""
    past = make_past(record, 0.3)
    start = record.find(PERIOD.since)
    wrong = past.first.scores.copy()
    offset = start - past.first.first
    wrong[:offset] = 0.25 + 0.5 * (record.outcomes[past.first.first : start] - 0.25)
    wrong[offset:] = 0.25 - 0.5 * (record.outcomes[start:] - 0.25)
    broken = dataclasses.replace(past, first=dataclasses.replace(past.first, scores=wrong))
    replay = replay_policy(POLICIES["quality"], broken)
    assert replay.requests[0].causes[0] == "quality"
    assert replay.requests[0].passed
    assert not replay_policy(POLICIES["never"], broken).requests


def test_the_whole_backtest_tells_every_policy(project: Project, tmp_path: Path) -> None:
    """Table, JSON and picture name each policy; the oracle is never beaten; never fits nothing."""
    found = run_backtest(project, PERIOD, ("never", "weekly", "combined"), teaching=TEACHING)
    assert [line[0] for line in list_lines(found)] == ["never", "weekly", "combined"]
    assert all(len(line) == len(HEAD) for line in list_lines(found))
    told = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert [p["policy"] for p in told["policies"]] == ["never", "weekly", "combined"]
    assert all(w.regret_auc >= 0 and w.regret_loss >= 0 for w in found.worths)
    never = found.worths[0]
    assert (never.retrains, never.seconds, never.worst_week) == (0, 0.0, 0.0)
    assert sum(week.rows for week in never.weeks) == sum(month.rows for month in never.months)
    assert any("combined against weekly" in line for line in list_remarks(found))
    draw_backtest(found, tmp_path / "shown" / "backtest.png")
    assert (tmp_path / "shown" / "backtest.png").read_bytes()[:4] == b"\x89PNG"


def test_processes_give_the_same_models(record: Record) -> None:
    """Fitting in parallel changes nothing but the time."""
    teaching = dataclasses.replace(TEACHING, holdout=12 * DAY)
    instants = [PERIOD.since, PERIOD.since + WEEK]
    together = models.fit_models(record, instants, teaching, jobs=2)
    for file in (record.file.parent / "models").glob("*.parquet"):
        file.unlink()
    for instant, model in models.fit_models(record, instants, teaching).items():
        assert np.array_equal(model.scores, together[instant].scores)


def test_a_home_without_the_past_is_told_to_take_it_in(
    project: Project, make_toy: Callable[..., Project]
) -> None:
    """An empty home, or a period that has not landed, names the command to run."""
    with pytest.raises(NotEnoughData, match=r"got nothing of orders, returns.*perennial backfill 2024-01-01"):
        run_backtest(make_toy(), PERIOD)
    later = Period(PERIOD.until + 10 * DAY, PERIOD.until + 20 * DAY)
    with pytest.raises(NotEnoughData, match=r"perennial backfill 2024-01-01 2024-01-31"):
        run_backtest(project, later)


def test_an_unknown_policy_is_refused_by_name(project: Project) -> None:
    """What is wrong and what there is are named."""
    with pytest.raises(SettingsError, match="got hourly, expected some of never, weekly"):
        run_backtest(project, PERIOD, ("hourly",))
