"""Looks at a release: what they decide, what they do, and that they never override a person."""

import itertools
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from feature_repo.contract import Period
from feature_repo.errors import MonitorsDown
from flows.label import LABEL_SCHEMA, TABLE
from flows.releasing.look import look
from flows.releasing.release import promote_version, reconcile_previous
from flows.releasing.rollout import challenge, release_passed
from flows.releasing.watching import STARVED
from services.journal import Prediction, ShadowScore, format_instant
from services.routing import TERMS, falls_to_challenger, parse_terms
from tests import toy
from tests.packages import FakeRegistry, write_package

NOON = timedelta(hours=12)
PER_DAY = 40
HORIZON = toy.TOY.horizon


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return [write_package(folder / str(seed), toy.TOY, seed) for seed in (1, 2)]


@pytest.fixture
def project(make_toy, packages, monkeypatch):
    """A toy project whose first version serves; the second one passed the gate."""
    monkeypatch.setattr("flows.releasing.release.require_monitors", lambda project, version: None)
    made = make_toy()
    nobody = dict.fromkeys(("prefect_port", "prometheus_port", "alertmanager_port", "service_port"), 1)
    made = replace(made, settings=made.settings.model_copy(update={"required_monitors": "", **nobody}))
    vars(made)["registry"] = registry = FakeRegistry()
    for package in packages:
        registry.register(package, "run", {"perennial.gate": "passed"})
    promote_version(made, 1, "first", by_hand=True)
    return made


def live(
    project,
    days,
    score,
    served_by="champion",
    version=1,
    reason="ok",
    other=None,
    first=0,
    minutes=PER_DAY,
    drawn=None,
):
    """Journal `PER_DAY` answers a day, label them, and journal the challenger's scores if there are any.

    They are received in that many minutes from now on, about things that are among a canary's share, or not.
    """
    rng = np.random.default_rng(first)
    answers, labels, shadows = [], [], []
    features = json.dumps({"shop": "north", "amount": 5.0, "hour": 12.0, "shop_returned_1d": 5.0})
    for day in range(first, first + days):
        at = toy.START + timedelta(days=day) + NOON
        for i in range(PER_DAY):
            outcome = float(rng.random() < 0.5)
            name = f"{served_by}-{version}-{reason}-{day}-{i}"
            if drawn is not None:
                falls = (f"{name}-{k}" for k in itertools.count())
                name = next(one for one in falls if falls_to_challenger(one, "2", 0.1) == drawn)
            p = abs(1 - outcome - score) if score is not None else 0.5  # how sure of what came
            now = format_instant(datetime.now(UTC) + timedelta(seconds=1, minutes=i % minutes))
            told = (str(version), served_by, reason, p, features, "[]", "{}")
            answers.append(Prediction(name, name, format_instant(at), now, *told))
            row = (name, name, at, at + timedelta(days=3), p, outcome, "settled", str(version), served_by)
            labels.append(row)
            if other is not None:
                shadows.append(ShadowScore(name, "2", abs(1 - outcome - other), now))
    project.journal.append(answers)
    if shadows:
        project.journal.submit_shadows(shadows).result()
    known = project.lake.read(TABLE)
    frame = pl.DataFrame(labels, schema=LABEL_SCHEMA, orient="row")
    frame = pl.concat([known.cast(LABEL_SCHEMA), frame]) if known.width else frame
    project.lake.replace(TABLE, frame, Period(toy.START, toy.START + timedelta(days=99)), by="known_at")


def until(day):
    """An instant by which all labels of the days before are in."""
    return toy.START + timedelta(days=day) + HORIZON


def noisy(project, days, other, spread=0.02):
    """Days beside the champion that differ a little from each other."""
    for day in range(days):
        live(project, 1, 0.6, other=other + spread * (-1) ** day, first=day)


def test_a_shadow_that_is_surely_better_is_promoted_and_watched(project):
    """The same path as any promotion, by nobody's hand, and the record says why."""
    rollout = release_passed(project, 2, "newer labels", stage="shadow")
    noisy(project, 6, 0.8)
    assert look(project, until(6)).action == "go on"
    assert project.registry.named["champion"] == 1
    live(project, 1, 0.6, other=0.8, first=6)
    live(project, 1, 0.6, other=0.82, first=7)
    found = look(project, until(8))
    assert (found.action, found.rollout.state, found.rollout.id) == ("promote", "watched", rollout.id)
    assert project.registry.named == {"champion": 2, "previous": 1}
    move = next(m for m in reversed(project.releases.moves()) if m.alias == "champion")
    assert (move.how, move.rollout) == ("automatic", rollout.id)
    assert "surely better" in move.reason


def test_days_whose_labels_may_still_come_do_not_count(project):
    """Early labels are not all labels."""
    release_passed(project, 2, "newer labels", stage="shadow")
    noisy(project, 8, 0.8)
    assert look(project, until(6)).action == "go on"
    assert look(project, until(8)).action == "promote"


def test_a_shadow_that_is_surely_worse_is_taken_away(project):
    """The challenger's alias goes, the champion stays."""
    release_passed(project, 2, "newer labels", stage="shadow")
    noisy(project, 8, 0.4)
    found = look(project, until(8))
    assert (found.action, found.rollout.state) == ("stop", "stopped")
    assert project.registry.named == {"champion": 1}


def test_arms_of_a_canary_are_compared_and_pinned_answers_are_not(project):
    """Each day's mean of one arm against the other's; a pin is no draw."""
    release_passed(project, 2, "newer labels", stage="canary")
    for day in range(9):
        live(project, 1, 0.6 + 0.01 * (-1) ** day, first=day)
        live(project, 1, 0.8, served_by="challenger", version=2, first=day)
        live(project, 1, 0.01, served_by="challenger", version=2, reason="pinned", first=day)
    assert look(project, until(9)).action == "promote"


def test_a_look_never_overrides_a_person(project):
    """Whoever moved an alias, by click or command, has the last word."""
    release_passed(project, 2, "newer labels", stage="shadow")
    noisy(project, 8, 0.8)
    third = project.registry.register(project.registry.packages[1], "run", {})
    project.registry.named["champion"] = third
    found = look(project, until(8))
    assert (found.rollout.version, found.action) == (third, "go on")  # it had never served: it is watched
    assert project.registry.named["champion"] == third
    assert [r.state for r in project.releases.rollouts() if r.version == 2] == ["overridden"]


def test_a_breach_in_the_bake_time_is_rolled_back(project):
    """A champion that fails on many of its rows goes, at the next look, without a label."""
    release_passed(project, 2, "newer labels")
    live(project, 2, None, version=2, first=0)
    live(project, 2, None, served_by="previous", version=1, reason="champion_failed", first=0)
    found = look(project, until(0) + timedelta(days=1))
    assert (found.action, found.rollout.state) == ("roll back", "rolled back")
    assert found.reasons[0].startswith("errors")
    assert project.registry.named["champion"] == 1
    assert look(project, until(1)) is None


def lack(project, reason, minutes=PER_DAY):
    """Journal three days: of each, half the answers by the new champion, half by the rule, and look."""
    live(project, 3, 0.6, version=2)
    live(project, 3, None, served_by="rule", version=2, reason=reason, minutes=minutes)
    return look(project, until(0) + timedelta(days=1))


def test_failures_of_one_minute_roll_nothing_back(project):
    """One group that hung is one failure, however many rows it had."""
    release_passed(project, 2, "newer labels")
    found = lack(project, "champion_late", minutes=1)
    assert found.action == "go on", found.reasons
    assert "120 of 240 things answered by it, 120 failed" in found.reasons


ELSEWHERE = ["champion_unreachable", "no_champion", "overloaded", "request_features_failed", STARVED]


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_what_no_model_did_rolls_nothing_back(project, reason):
    """MLflow, the queue and the store fail for any version; they have alerts of their own."""
    release_passed(project, 2, "newer labels")
    found = lack(project, reason)
    assert found.action == "go on", found.reasons
    assert "120 of 120 things answered by it, 0 failed" in found.reasons


def test_a_version_that_nobody_could_ever_load_is_rolled_back(project):
    """Its artifact is lost, or too big for any worker: it is MLflow's trouble only if it ever answered."""
    release_passed(project, 2, "newer labels")
    live(project, 3, 0.6, served_by="previous", reason="champion_unreachable")
    found = look(project, until(0) + timedelta(days=1))
    assert found.action == "roll back"
    assert found.reasons[0].startswith("errors: it failed on 120 of 120")
    assert project.registry.named["champion"] == 1


def test_a_version_that_asks_for_more_answers_for_what_is_missing(project, tmp_path):
    """The version before had its inputs: that the store lacks those of this one came with it."""
    release_passed(project, 2, "newer labels")
    registry = project.registry
    fewer = registry.packages[1] = shutil.copytree(registry.packages[1], tmp_path / "fewer")
    contract = json.loads((fewer / "contract.json").read_text())
    contract["features"] = contract["features"][:-1]
    (fewer / "contract.json").write_text(json.dumps(contract))
    found = lack(project, STARVED)
    assert found.action == "roll back"
    assert found.reasons[0].startswith("coverage")


def test_a_champion_worse_than_the_one_before_is_rolled_back_for_quality(project):
    """The version before is asked about the very same features, once their labels are whole."""
    release_passed(project, 2, "newer labels")
    for day in range(8):
        live(project, 1, 0.05 + 0.001 * day, version=2, first=day)  # nearly always wrong
    found = look(project, until(8))
    assert found.action == "roll back", found.reasons
    assert found.reasons[0].startswith("quality")


def test_a_bake_time_shorter_than_the_labels_wait_keeps_but_does_not_call_good(project):
    """It says that quality was not judged, and the rollout keeps that."""
    challenge(project, 2, "soon", bake=1)
    project.releases.end(project.releases.current(), "stopped", [])
    release_passed(project, 2, "newer labels")
    rollout = project.releases.change(project.releases.current(), terms={"bake": 1.0, "stage": "shadow"})
    live(project, 3, 0.6, version=2)
    found = look(project, toy.START + timedelta(days=2))
    assert (found.action, found.rollout.id, found.rollout.state) == ("keep", rollout.id, "kept")
    assert any("quality not judged" in reason for reason in found.rollout.reasons)


def test_a_promotion_that_was_killed_halfway_is_watched_all_the_same(project):
    """The alias had moved, the rollout did not know it yet: the next look does."""
    rollout = release_passed(project, 2, "newer labels", stage="shadow")
    told = {"who": "a look", "how": "automatic", "reason": "surely better", "rollout": rollout.id}
    project.releases.begin("champion", 1, 2, **told)
    project.registry.named["champion"] = 2
    assert look(project, until(1)).rollout.state == "watched"
    assert project.registry.named["previous"] == 1


def test_terms_that_cannot_be_read_stop_no_release(project):
    """Anybody can write into a tag: what the rollout began with holds then."""
    release_passed(project, 2, "newer labels", stage="canary")
    project.registry.tag(2, TERMS, "{")
    noisy(project, 8, 0.8)
    assert look(project, until(8)).action in {"go on", "promote"}
    assert challenge(project, 2, "again").terms["stage"] == "canary"
    assert parse_terms(project.registry.read_version_tag(2, TERMS)).stage == "canary"


def test_a_version_that_was_deleted_stops_no_look(project):
    """What stood beside the champion is gone: that is a person's doing, and the end of it."""
    release_passed(project, 2, "newer labels", stage="shadow")
    del project.registry.packages[2], project.registry.named["challenger"]
    assert look(project, until(8)) is None
    reconcile_previous(project)
    assert project.registry.named == {"champion": 1}


def test_a_backdated_request_does_not_end_the_bake_time(project):
    """The days watched are the data's own since the promotion; a client chooses what its request says."""
    rollout = release_passed(project, 2, "newer labels")
    assert rollout.terms["from"] == toy.START.isoformat()
    project.releases.change(rollout, terms={**rollout.terms, "from": until(20).isoformat()})
    live(project, 3, 0.6, version=2, first=0)
    assert look(project, until(21)).action == "go on"
    assert look(project, until(35)).action == "keep"


def test_a_challenger_that_answers_nothing_is_given_up(project):
    """Days without a verdict count too, by the data's own time since it was set beside."""
    release_passed(project, 2, "newer labels", stage="shadow")
    live(project, 60, 0.6)
    assert look(project, until(60) - timedelta(hours=1)).action == "go on"
    found = look(project, until(60))
    assert (found.action, found.rollout.state, project.registry.named) == ("stop", "stopped", {"champion": 1})


def test_days_that_landed_in_bulk_end_no_experiment(project):
    """A backfill of two months, in which nobody asked, says nothing; two months on the wall do."""
    rollout = release_passed(project, 2, "newer labels", stage="shadow")
    live(project, 3, 0.6)
    assert look(project, until(80)).action == "go on"
    since = datetime.fromisoformat(rollout.since) - timedelta(days=70)
    project.releases.change(rollout, since=since.isoformat())
    assert look(project, until(80)).action == "stop"


def test_a_champion_that_nobody_asked_is_not_kept(project):
    """Its bake time passed by a backfill: nothing is known of it yet."""
    release_passed(project, 2, "newer labels")
    found = look(project, until(60))
    assert found.action == "go on"
    assert "not kept before 100 things were asked" in found.reasons[-1]


def test_failures_count_before_the_data_of_their_day_have_landed(project):
    """What is asked now is about things to come: nothing waits for the next batch."""
    release_passed(project, 2, "newer labels")
    live(project, 5, None, "rule", None, reason="champion_failed", first=3)
    assert look(project, toy.START).action == "roll back"


def test_monitors_are_asked_while_nothing_is_held(project, monkeypatch):
    """One that hangs must not keep a person from rolling back."""
    release_passed(project, 2, "newer labels", stage="shadow")
    noisy(project, 8, 0.8)
    held = []
    inside = project.releases._inside
    monkeypatch.setattr(
        "flows.releasing.release.require_monitors", lambda *_: held.append(getattr(inside, "held", False))
    )
    assert look(project, until(8)).action == "promote"
    assert held == [False]


def test_a_promotion_whose_monitors_are_down_is_tried_again(project, monkeypatch):
    """The look says why, and the challenger stays where it is."""
    release_passed(project, 2, "newer labels", stage="shadow")
    noisy(project, 8, 0.8)

    def refuse(*_):
        raise MonitorsDown("Prometheus", got="silence", expected="an answer", next_step="Start it.")

    with monkeypatch.context() as patched:
        patched.setattr("flows.releasing.release.require_monitors", refuse)
        found = look(project, until(8))
        assert found.action == "go on"
        assert "cannot promote now" in found.reasons[-1]
        assert project.registry.named == {"champion": 1, "challenger": 2}
    assert look(project, until(8)).action == "promote"


def test_a_canary_that_fails_is_taken_away(project):
    """On surely more than 1% of what was drawn to it, without a label."""
    rollout = release_passed(project, 2, "newer labels", stage="canary")
    live(project, 3, 0.6, reason="challenger_failed", drawn=True)
    assert look(project, until(1)).action == "stop"
    told = "errors: the challenger failed on 120 of 120, 1% allowed"
    assert project.releases.rollout(rollout.id).reasons[-1] == told
    assert project.registry.named == {"champion": 1}


@pytest.mark.parametrize(
    ("days", "minutes", "drawn"),
    [(2, PER_DAY, True), (3, 2, True), (3, PER_DAY, False)],
    ids=["fewer than 100", "of two minutes", "pinned to it, or another's"],
)
def test_what_proves_nothing_of_a_canary_ends_none(project, days, minutes, drawn):
    """Few failures, a group that hung, or failures on things that are not among its share."""
    release_passed(project, 2, "newer labels", stage="canary")
    live(project, days, 0.6, reason="challenger_failed", minutes=minutes, drawn=drawn)
    assert look(project, until(1)).action == "go on"


def test_a_few_failures_of_many_end_no_canary(project):
    """The share is bounded, not counted: 1 of 121 may be chance."""
    release_passed(project, 2, "newer labels", stage="canary")
    live(project, 3, 0.6, served_by="challenger", version=2, drawn=True)
    [first] = project.journal.read_predictions(Period(toy.START, until(9))).head(1).to_dicts()
    failed = {**first, "prediction_id": "f", "request_id": "f", "served_by": "champion", "model_version": "1"}
    known = {name: failed[name] for name in Prediction._fields if name in failed}
    project.journal.append([Prediction(**{**known, "reason": "challenger_late"})])
    assert look(project, until(1)).action == "go on"


def test_a_rejected_version_that_turns_out_better_is_a_persons_to_promote(project):
    """It is not asked for ever: the rollout ends and says so."""
    project.registry.tag(2, "perennial.gate", "rejected")
    rollout = challenge(project, 2, "to see")
    noisy(project, 8, 0.8)
    assert look(project, until(8)).action == "stop"
    assert "promote it by hand" in " ".join(project.releases.rollout(rollout.id).reasons)
    assert project.registry.named == {"champion": 1}
