"""What the gate looks at, gathered from a lake: rivals, inputs, and values made again."""

import dataclasses
import json
from datetime import timedelta

import polars as pl
import pytest

from feature_repo.contract import Period
from flows.features import build_features
from flows.gate import _record
from flows.gate_evidence import Rivals, describe_inputs, remake_values, score_rivals
from flows.ingest import ingest_period
from flows.policy.gate import GateVerdict
from flows.retrain_records import MET
from flows.train import Candidate
from flows.training_set import build_training_set, split_by_time
from tests import toy
from tests.packages import FakeRegistry, write_package

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
TODAY = toy.START + timedelta(days=21)


def peek(raw, ticks):
    """The shops' share of returns, by one who knows the next day."""
    rows = toy.shop_returns(raw, [tick + timedelta(days=1) for tick in ticks])
    return rows.with_columns(pl.col("event_timestamp") - timedelta(days=1))


def open_project(make_toy, compute=toy.shop_returns):
    """The toy problem with three weeks landed, its feature computed at once."""
    table = dataclasses.replace(toy.SHOP_DAY, compute=compute)
    project = make_toy()
    project = dataclasses.replace(project, problem=dataclasses.replace(toy.TOY, feature_tables=(table,)))
    vars(project)["registry"] = FakeRegistry()
    period = Period(toy.START, TODAY)
    ingest_period(project, period)
    build_features(project, period)
    return project


def train(project):
    """A candidate that nobody registered, and that says the same of everything: its inputs are looked at."""
    training = build_training_set(project, TODAY)
    fitted, holdout = split_by_time(training.rows, project.problem, timedelta(days=7), TODAY)
    return Candidate(1, "run", training, fitted, holdout.with_columns(score=pl.lit(0.2)), {})


def test_honest_values_are_made_again(make_toy):
    """Every input of the sampled rows is what it was when the future is withheld."""
    project = open_project(make_toy)
    candidate = train(project)
    remade = remake_values(project, candidate.holdout, candidate.training.snapshot)
    assert {one.name for one in remade} == set(project.problem.feature_names)
    assert all(one.compared >= 50 for one in remade)
    assert [one for one in remade if one.differ] == []


def test_a_feature_that_looks_ahead_is_found_by_name(make_toy):
    """Its transform may use what it is given: withheld the next day, it gives something else."""
    project = open_project(make_toy, peek)
    candidate = train(project)
    differ = {
        one.name: one.differ / one.compared
        for one in remake_values(project, candidate.holdout, candidate.training.snapshot)
    }
    assert differ.pop("shop_returned_1d") > 0.5
    assert set(differ.values()) == {0.0}


def test_a_first_model_has_the_base_rate_and_a_linear_model_to_beat(make_toy):
    """Without a champion these two are the rivals."""
    project = open_project(make_toy)
    rivals = score_rivals(project, train(project), project.settings.home)
    assert set(rivals.scores) == {"base rate", "linear model"}
    assert rivals.best_auc is None


def test_rows_whose_labels_may_still_come_are_not_judged(make_toy):
    """What is known of the newest days is what ended soonest, and not like the rest."""
    project = open_project(make_toy)
    candidate, at = train(project), project.problem.decided_at
    mature = TODAY - project.problem.horizon
    assert (candidate.holdout[at] >= mature).any()
    assert score_rivals(project, candidate, project.settings.home).rows[at].max() < mature


def test_an_input_is_held_against_what_was_learned(make_toy, tmp_path):
    """Null shares, unseen categories, ranges, and what the column alone is worth."""
    project = open_project(make_toy)
    candidate = train(project)
    told = {"kind": "number", "null_share": 0.0, "min": 0.0, "max": 1.0, "categories": None}
    features = [
        {**told, "name": "amount"},
        {**told, "name": "shop", "kind": "category", "categories": ["north", "south", "east"]},
    ]
    (tmp_path / "contract.json").write_text(json.dumps({"features": features}))
    rows = candidate.holdout.with_columns(amount=pl.when(pl.col("amount") > 100).then("amount"))
    champion = {"features": [{"name": "amount", "null_share": 0.05}]}
    found = describe_inputs(project.problem, candidate, tmp_path, Rivals(rows, {}, champion))
    amount, shop = found
    assert amount.held_null == pytest.approx(rows["amount"].null_count() / len(rows))
    assert (amount.champion_null, shop.champion_null) == (0.05, None)
    assert amount.outside == 1.0
    assert shop.unseen == pytest.approx((rows["shop"] == "west").mean())
    assert shop.alone is not None
    assert shop.alone > 0.55


def test_the_rivals_name_the_champion_that_they_were_met_with(make_toy, tmp_path):
    """Its version, as it was when its package was read; none if there was none."""
    project = open_project(make_toy)
    candidate = train(project)
    assert score_rivals(project, candidate, tmp_path / "alone").met is None
    project.registry.register(write_package(tmp_path / "package", project.problem, 1), "run", {})
    project.registry.set_alias("champion", 1)
    assert score_rivals(project, candidate, tmp_path / "beside").met == 1


@pytest.mark.parametrize(("met", "told"), [(7, "7"), (None, "none")])
def test_a_verdict_names_the_champion_that_it_was_held_against(make_toy, tmp_path, monkeypatch, met, told):
    """As a tag of the version, which a release compares with what serves then."""

    class Client:
        def __init__(self, url):
            self.log_text = self.log_dict = lambda *told: None

    monkeypatch.setattr("mlflow.MlflowClient", Client)
    project = make_toy()
    vars(project)["registry"] = FakeRegistry()
    _record(project, Candidate(1, "run", None, pl.DataFrame(), pl.DataFrame(), {}), GateVerdict(()), met)
    assert project.registry.read_version_tag(1, MET) == told
