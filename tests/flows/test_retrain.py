"""What a retrain comes to is kept, and the same request is not answered twice."""

import dataclasses
from datetime import timedelta
from types import SimpleNamespace

import polars as pl
import pytest

import flows.releasing.passed
import flows.retrain
from feature_repo.errors import MonitorsDown
from flows.policy.gate import GateVerdict
from flows.policy.gate_check import Check
from flows.releasing.passed import decline, release_judged, release_waiting
from flows.releasing.rollout import challenge
from flows.retrain import Request, retrain_and_release
from flows.retrain_records import MET, Retrain, read_retrains, record_retrain
from flows.train import Candidate
from tests import toy
from tests.packages import FakeRegistry, write_package

UNTIL = toy.START + timedelta(days=21)


class World:
    """A project whose training and gate are made up: `passes` says what the gate will say."""

    def __init__(self, project, monkeypatch):
        self.project, self.trained, self.released, self.passes = project, 0, [], True
        self.killed = False
        vars(project)["registry"] = FakeRegistry()
        monkeypatch.setattr(flows.retrain, "train", self.train)
        monkeypatch.setattr(flows.retrain, "gate", self.gate)
        monkeypatch.setattr(flows.releasing.passed, "release_step", self.release)

    def train(self, project, until, reason):
        self.trained += 1
        rows = pl.DataFrame()
        return Candidate(self.trained, "run", None, rows, rows, {})

    def gate(self, project, candidate):
        return GateVerdict((Check("better", self.passes, "0.01 worse", "better"),), behind=0.01)

    def release(self, project, version, reason, stage, met):
        if self.killed:
            raise KeyboardInterrupt
        self.released.append((version, stage))
        return f"{stage}: watched"

    def ask(self, week=0, window="", **told):
        request = Request(UNTIL + week * timedelta(days=7), "decay", window=window, **told)
        return retrain_and_release(self.project, request)


@pytest.fixture
def world(make_toy, monkeypatch):
    """A toy project with nothing in it."""
    return World(make_toy(), monkeypatch)


def test_a_candidate_that_passed_is_released_as_asked(world):
    """The record says why it was asked for, what the gate said, and how it was released."""
    came = world.ask(window="week 1 of v1", cause="event", stage="canary")
    assert (came.state, world.released) == ("released", [(1, "canary")])
    [kept] = read_retrains(world.project.lake)
    assert (kept.window, kept.reason, kept.why, kept.released) == (
        "week 1 of v1",
        "decay",
        "every check held",
        "canary: watched",
    )


def test_a_rejected_candidate_is_kept_with_its_reason_and_released_nowhere(world):
    """The gate's words stand in the record."""
    world.passes = False
    assert world.ask().state == "rejected"
    [kept] = read_retrains(world.project.lake)
    assert (kept.why, kept.behind, world.released) == ("better: 0.01 worse, expected better", 0.01, [])


def test_an_event_that_is_sent_again_trains_nothing(world):
    """One answer a window, whatever it came to; the record of it stays."""
    world.ask(window="week 1 of v1", cause="event")
    again = world.ask(window="week 1 of v1", cause="event")
    assert (again.state, world.trained) == ("held", 1)
    assert "was answered" in again.why
    assert [one.state for one in read_retrains(world.project.lake)] == ["released"]


def test_a_run_killed_before_its_release_is_made_up_for(world):
    """The next run of the same window releases what passed, and trains nothing."""
    world.killed = True
    with pytest.raises(KeyboardInterrupt):
        world.ask(window="week 1 of v1", cause="event")
    world.killed = False
    assert world.ask(window="week 1 of v1", cause="event").state == "released"
    assert (world.trained, world.released) == (1, [(1, "full")])


def test_what_could_not_be_released_is_released_by_the_next_day(world, monkeypatch):
    """A kill, or monitors that were down: the loop's next day makes up for it, and once is enough."""
    world.killed = True
    with pytest.raises(KeyboardInterrupt):
        world.ask(window="week 1 of v1", cause="event")
    world.killed = False

    def refuse(*_):
        raise MonitorsDown("Prometheus", got="silence", expected="an answer", next_step="Start it.")

    with monkeypatch.context() as patched:
        patched.setattr(flows.releasing.passed, "release_step", refuse)
        assert release_waiting(world.project).released.startswith("waits: ")
    assert release_waiting(world.project).state == "released"
    assert release_waiting(world.project) is None
    assert (world.trained, world.released) == (1, [(1, "full")])


def test_what_another_run_has_released_meanwhile_is_left_alone(world):
    """Two at once: the second one finds it done."""
    world.killed = True
    with pytest.raises(KeyboardInterrupt):
        world.ask(window="week 1 of v1", cause="event")
    world.killed = False
    [stale] = read_retrains(world.project.lake)
    assert release_waiting(world.project).state == "released"
    assert release_judged(world.project, stale).state == "released"
    assert world.released == [(1, "full")]


def keep(world, version, week, state):
    """Put a retrain on record."""
    at = UNTIL + week * timedelta(days=7)
    told = {"asked_at": at, "until": at, "cause": "event", "reason": "decay"}
    record_retrain(world.project.lake, Retrain(key=f"v{version}", state=state, version=version, **told))


def test_the_newest_of_what_waits_is_released_and_no_other(world):
    """The older one was overtaken before it ever served."""
    keep(world, 1, 1, "passed")
    keep(world, 2, 2, "passed")
    assert release_waiting(world.project).version == 2
    assert [one.state for one in read_retrains(world.project.lake)] == ["held", "released"]
    assert world.released == [(2, "full")]


def test_what_waits_does_not_take_the_place_of_what_passed_later(world):
    """A newer one was released meanwhile, and may have been rolled back since: the older one is over."""
    keep(world, 1, 1, "passed")
    keep(world, 2, 2, "released")
    assert release_waiting(world.project) is None
    assert [one.state for one in read_retrains(world.project.lake)] == ["held", "released"]
    assert world.released == []


def test_what_a_person_turns_down_is_not_released(world):
    """Nor is what waited for so long that it was judged on other days than these."""
    keep(world, 1, 1, "passed")
    decline(world.project, 1, "turned down by ann")
    assert release_waiting(world.project) is None
    keep(world, 2, -9, "passed")
    assert release_waiting(world.project).why.startswith("it waited for more than 28 days")
    assert world.released == []


def test_what_a_person_has_decided_on_is_not_released_again(world):
    """Somebody made it champion and went back: that was the last word on it."""
    world.killed = True
    with pytest.raises(KeyboardInterrupt):
        world.ask(window="week 1 of v1", cause="event")
    world.killed = False
    state = world.project.releases
    state.finish(state.begin("champion", None, 1, who="ann", how="by hand", reason="I like it"), 0.1)
    assert release_waiting(world.project).released == "champion by hand, by ann"
    assert world.released == []


@pytest.mark.parametrize("stage", ["full", "canary"])
def test_a_retrain_waits_for_what_a_person_set_beside_the_champion(world, stage):
    """It passed, and is released once that experiment is over."""
    registry = world.project.registry
    for _ in range(3):
        registry.register(world.project.settings.home, "run", {})
    registry.set_alias("champion", 3)
    challenge(world.project, 2, "try", stage="canary", who="ann")
    came = world.ask(window="week 1 of v3", cause="event", stage=stage)
    assert (came.state, world.released) == ("passed", [])
    assert "version 2, which ann set beside the champion, is under way" in came.released
    registry.delete_alias("challenger")
    assert release_waiting(world.project).state == "released"
    assert world.released == [(1, stage)]


def test_the_schedule_trains_only_where_nobody_asks(world, tmp_path, monkeypatch):
    """Without a champion, or with one that learned long ago, and if nothing was tried for a week."""
    world.passes = False
    assert world.ask(0, cause="schedule", key="monday 1").state == "rejected"
    assert "less than 7 days old" in world.ask(0, cause="schedule", key="monday 1 again").why
    assert world.ask(1, cause="schedule", key="monday 2").state == "rejected"
    world.project.registry.register(write_package(tmp_path / "package", world.project.problem, 1), "run", {})
    world.project.registry.set_alias("champion", 1)
    learned = UNTIL + timedelta(days=7)
    monkeypatch.setattr(flows.retrain, "read_champion", lambda *_: SimpleNamespace(trained_until=learned))
    young = world.ask(4, cause="schedule", key="monday 5")
    assert (young.state, world.trained) == ("held", 2)
    assert "sooner only the monitor asks" in young.why
    assert world.ask(5, cause="schedule", key="monday 6").state == "rejected"


def test_after_eight_rejections_only_a_person_or_new_evidence_trains(world):
    """The schedule is held and says so; a person is not, and neither is it once the champion is another."""
    world.passes = False
    for week in range(8):
        assert world.ask(week, cause="event", window=f"week {week}").state == "rejected"
    for cause in ("schedule", "event"):
        held = world.ask(8, cause=cause, key=f"{cause} 8")
        assert (held.state, world.trained) == ("held", 8)
        assert "held until there are labels of" in held.why
    assert world.ask(8, cause="hand", key="by hand").state == "rejected"
    world.project.registry.register(world.project.settings.home, "run", {})
    world.project.registry.set_alias("champion", 1)
    assert world.ask(8, cause="event", key="run 9").state == "rejected"


def test_what_was_tried_is_kept(world, monkeypatch):
    """The windows of the past that training compared, and the one it learned from."""
    from flows.policy.window import Tried

    plain = world.train
    windows = (Tried("expanding", 900), Tried("60 days", 100, reason="too few"))
    monkeypatch.setattr(
        flows.retrain,
        "train",
        lambda *told: dataclasses.replace(plain(*told), windows=windows, window="expanding"),
    )
    kept = world.ask()
    assert kept.learned_from == "expanding"
    assert "60 days" in kept.tried


@pytest.mark.parametrize(
    ("met", "state"), [("4", "held"), ("none", "held"), ("5", "released"), ("", "released")]
)
def test_a_verdict_is_used_against_the_champion_that_it_was_held_against(world, met, state):
    """What passed weeks ago, against another one, is held; a record of before this was kept is as it was."""
    registry = world.project.registry
    for _ in range(6):
        registry.register(world.project.settings.home, "run", {})
    if met:
        registry.tag(1, MET, met)
    registry.set_alias("champion", 5)
    came = world.ask(window="week 1 of v4", cause="event")
    assert (came.state, bool(world.released)) == (state, state == "released")


def test_after_a_held_verdict_the_same_request_trains_anew(world):
    """A new candidate is the answer."""
    registry = world.project.registry
    for _ in range(6):
        registry.register(world.project.settings.home, "run", {})
    registry.tag(1, MET, "4")
    registry.set_alias("champion", 5)
    assert world.ask(window="week 1 of v4", cause="event").state == "held"
    assert (world.ask(window="week 1 of v4", cause="event").state, world.trained) == ("released", 2)
