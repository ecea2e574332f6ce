"""Rollouts: beside the champion or watched as the champion, each with its own reasons."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feature_repo.errors import GateClosed, MonitorsDown, RegistryUnavailable, ReleaseBusy
from flows.releasing.keeper import Keeper
from flows.releasing.look import look
from flows.releasing.release import promote_version, reconcile_previous, roll_back
from flows.releasing.release_state import ReleaseState
from flows.releasing.rollout import challenge, make_ready, promote_and_watch, release_passed
from flows.releasing.served_history import find_served, list_spells
from services.routing import TERMS, parse_terms
from tests import toy
from tests.packages import FakeRegistry


@pytest.fixture
def project(make_toy, tmp_path, monkeypatch):
    """A toy project with three versions that the gate passed, and no monitor to wait for."""
    monkeypatch.setattr("flows.releasing.release.require_monitors", lambda project, version: None)
    toy = make_toy()
    nobody = dict.fromkeys(("prefect_port", "prometheus_port", "alertmanager_port"), 1)
    free = toy.settings.model_copy(update={"required_monitors": "", **nobody})
    (tmp_path / "package").mkdir()
    toy = replace(toy, settings=free)
    vars(toy)["registry"] = registry = FakeRegistry()
    for _ in range(3):
        registry.register(tmp_path / "package", "run", {"perennial.gate": "passed"})
    return toy


def test_a_release_at_once_is_watched(project):
    """The champion moves, and the rollout knows what it is compared with."""
    assert release_passed(project, 1, "first").state == "kept"
    rollout = release_passed(project, 2, "newer labels")
    assert (rollout.state, rollout.version, rollout.baseline) == ("watched", 2, 1)
    assert project.registry.named == {"champion": 2, "previous": 1}
    assert release_passed(project, 2, "again").id == rollout.id


def test_a_release_in_shadow_or_canary_leaves_the_champion(project):
    """The challenger's alias and the tag with its terms are all that the workers need."""
    release_passed(project, 1, "first", stage="canary")
    assert project.registry.named == {"champion": 1}
    rollout = release_passed(project, 2, "newer labels", stage="canary")
    assert (rollout.state, project.registry.named["challenger"]) == ("beside", 2)
    assert parse_terms(project.registry.read_version_tag(2, TERMS)).stage == "canary"


def test_a_version_that_the_gate_did_not_pass_is_not_released(project, tmp_path):
    """By a person it may still be set beside the champion; not by itself."""
    release_passed(project, 1, "first")
    version = project.registry.register(tmp_path / "package", "run", {"perennial.gate": "rejected"})
    for stage in ("full", "shadow", "canary"):
        with pytest.raises(GateClosed, match="rejected"):
            release_passed(project, version, "it is new", stage=stage)
    assert project.registry.named == {"champion": 1}
    assert challenge(project, version, "to see").version == version


def test_a_challenge_keeps_what_is_not_named(project):
    """An open canary stays one, unless its stage is named."""
    release_passed(project, 1, "first")
    challenge(project, 2, "try", stage="canary", share=0.2)
    rollout = challenge(project, 2, "longer", bake=14)
    assert rollout.terms.items() >= {"stage": "canary", "share": 0.2, "bake": 14}.items()
    again = challenge(project, 2, "quieter", stage="shadow")
    assert (again.id, again.terms["stage"], again.terms["share"]) == (rollout.id, "shadow", 0.2)


def test_another_stage_counts_its_days_anew(project):
    """What was seen in shadow is not counted with the canary; a longer bake time changes nothing."""
    release_passed(project, 1, "first")
    first = challenge(project, 2, "try")
    assert challenge(project, 2, "longer", bake=14).since == first.since
    assert challenge(project, 2, "louder", stage="canary").since > first.since


def test_reasons_belong_to_one_rollout(project):
    """A second release of the same version does not tell of the first."""
    release_passed(project, 1, "first")
    challenge(project, 2, "once")
    challenge(project, 3, "other")
    second = challenge(project, 2, "twice")
    assert second.reasons == ("twice",)
    first = project.releases.rollouts()[1]
    assert (first.state, first.reasons[0]) == ("overridden", "once")


@pytest.mark.parametrize("act", ["promote", "roll back", "click"])
def test_a_persons_move_ends_a_rollout(project, act):
    """By command or in MLflow: what was under way is over, and says by whom."""
    promote_version(project, 1, "first", by_hand=True)
    promote_version(project, 3, "second", by_hand=True)
    rollout = challenge(project, 2, "try")
    if act == "promote":
        promote_version(project, 2, "I like it", by_hand=True, who="ann")
    elif act == "roll back":
        roll_back(project, "I do not", who="ann")
    else:
        project.registry.named["champion"] = 2
        reconcile_previous(project)
    ended = project.releases.rollout(rollout.id)
    assert ended.state == "overridden"
    assert ("somebody moved champion" if act == "click" else "ann") in ended.reasons[-1]


def test_promoted_challengers_are_challengers_no_more(project):
    """The alias goes with the promotion, and the record has both moves."""
    promote_version(project, 1, "first", by_hand=True)
    challenge(project, 2, "try")
    promote_version(project, 2, "good", by_hand=True)
    assert project.registry.named == {"champion": 2, "previous": 1}
    assert [(m.alias, m.after) for m in project.releases.moves()][-2:] == [
        ("champion", 2),
        ("challenger", None),
    ]


def test_no_canary_goes_on_without_a_rollout(project):
    """Whoever ends it, nobody's traffic is left with a challenger that nothing watches."""
    release_passed(project, 1, "first")
    challenge(project, 2, "try", stage="canary")
    promote_version(project, 3, "no, this one", by_hand=True)
    assert project.registry.named == {"champion": 3, "previous": 1}


def test_a_click_on_the_champion_is_kept_with_from_and_to(project):
    """`previous` is what served before, whoever moved it, and nothing is recorded twice."""
    promote_version(project, 1, "first", by_hand=True)
    project.registry.named["champion"] = 2
    for _ in range(2):
        reconcile_previous(project)
    assert project.registry.named == {"champion": 2, "previous": 1}
    last = project.releases.moves()[-1]
    assert (last.before, last.after, last.how) == (1, 2, "noticed")
    assert len(project.releases.moves()) == 2


def test_a_deleted_version_blocks_no_way(project):
    """The one before is gone, so the last one that is left serves; a click is followed all the same."""
    for version in (1, 2, 3):
        promote_version(project, version, "on", by_hand=True)
    del project.registry.packages[2], project.registry.named["previous"]
    assert roll_back(project, "bad").after == 1
    del project.registry.packages[1]
    project.registry.named["champion"] = 3
    reconcile_previous(project)
    assert project.releases.last("champion") == 3
    with pytest.raises(GateClosed, match="no such version"):
        promote_version(project, 2, "gone", by_hand=True)


def test_a_move_that_was_killed_is_finished_or_dropped(project):
    """What came to pass keeps who wanted it and why; what did not leaves nothing."""
    promote_version(project, 1, "first", by_hand=True)
    state, told = project.releases, {"who": "ann", "how": "by hand", "reason": "why not", "rollout": None}
    state.begin("champion", 1, 2, **told)
    reconcile_previous(project)
    assert [move.after for move in state.moves()] == [1]
    state.begin("champion", 1, 2, **told)
    project.registry.named["champion"] = 2  # killed right after
    reconcile_previous(project)
    assert [(move.after, move.who) for move in state.moves()][-1] == (2, "ann")
    assert project.registry.named["previous"] == 1


def test_what_served_is_known_at_any_instant(project):
    """Before the first move nothing did; between two moves the first of them."""
    promote_version(project, 1, "first", by_hand=True)
    promote_version(project, 2, "second", by_hand=True)
    moves = project.releases.moves()
    first, second = (datetime.fromisoformat(move.at) for move in moves)
    between = first + (second - first) / 2
    asked = (first - timedelta(seconds=1), between, second)
    assert [find_served(moves, at)["champion"] for at in asked] == [None, 1, 2]
    assert [spell["to"] for spell in list_spells(moves, second)] == [1, 2]


def test_the_keeper_sees_a_click_once(project):
    """It asks for the aliases alone while nothing moves; trouble ends nothing."""
    promote_version(project, 1, "first", by_hand=True)
    keeper = Keeper(project, project.registry.aliases)
    assert [keeper.tend(), keeper.tend()] == [True, False]
    project.registry.named["champion"] = 2
    project.registry.down = True
    assert not keeper.tend()
    project.registry.down = False
    assert [keeper.tend(), keeper.tend()] == [True, False]
    assert project.registry.named["previous"] == 1


def test_a_click_while_the_keeper_is_at_work_is_seen_the_next_time(project):
    """What was read before the reconciling is what was reconciled, and no more."""
    promote_version(project, 1, "first", by_hand=True)
    keeper = Keeper(project, lambda: {"champion": 1})
    keeper.tend()
    project.registry.named["champion"] = 2
    seen = iter([{"champion": 2}, {"champion": 1}])
    racing = Keeper(project, lambda: next(seen))
    assert [racing.tend(), racing.tend()] == [True, True]


def test_two_processes_do_not_move_at_once(project):
    """Who comes second waits, and says so if it takes too long."""
    other = ReleaseState(project.settings.home)
    with project.releases.hold(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.releasing.release_state.PATIENCE", 0.05)
        with pytest.raises(ReleaseBusy), other.hold():
            pass


@pytest.mark.parametrize(
    "reason", ["[bold]a[/bold] [/x]", "a\n| b | <b> '; DROP TABLE moves", "\x00\ud7ff é"]
)
def test_a_reason_is_text_and_nothing_else(project, reason, monkeypatch):
    """Markup, quotes and control characters stay what they are, in the record and in the table."""
    from io import StringIO

    from rich.console import Console

    from flows.cli import release as cli_release

    promote_version(project, 1, reason, by_hand=True)
    assert project.releases.moves()[-1].reason == reason
    told = StringIO()
    Console(file=told, width=200).print(
        cli_release._draw(list_spells(project.releases.moves(), datetime.now(UTC)))
    )
    assert reason.splitlines()[0][:8].strip("\x00") in told.getvalue()


class Killed(BaseException):
    """The process is gone."""


def kill(*args, **told):
    raise Killed


def while_monitors_are_asked(monkeypatch, act):
    """Do something once, while a release of version 3 waits for its monitors."""
    todo = [act]

    def ask(project, version):
        if version == 3 and todo:
            todo.pop()()

    monkeypatch.setattr("flows.releasing.release.require_monitors", ask)


@pytest.mark.parametrize("who", ["ann", "another release", "ann's challenge"])
def test_a_release_that_was_overtaken_moves_nothing(project, monkeypatch, who):
    """Whoever moved something while it waited has the last word, and the record names what serves."""
    release_passed(project, 1, "first")
    acts = {
        "ann": lambda: promote_version(project, 2, "mine", by_hand=True, who="ann"),
        "another release": lambda: release_passed(project, 2, "sooner"),
        "ann's challenge": lambda: challenge(project, 2, "try", who="ann"),
    }
    while_monitors_are_asked(monkeypatch, acts[who])
    with pytest.raises(GateClosed, match="in its way" if "challenge" in who else "overtaken"):
        release_passed(project, 3, "retrain")
    named = {"champion": 1, "challenger": 2} if "challenge" in who else {"champion": 2, "previous": 1}
    assert project.registry.named == named
    current = project.releases.current()
    assert (current and (current.version, current.baseline)) == (None if who == "ann" else (2, 1))


@pytest.mark.parametrize("stage", ["full", "shadow"])
@pytest.mark.parametrize("begun", ["by hand", "by itself, then changed by hand", "in MLflow"])
def test_nothing_that_a_person_set_beside_is_ended_by_itself(project, begun, stage):
    """Not though the gate passed a better one meanwhile; a person's own word goes before."""
    release_passed(project, 1, "first")
    if begun == "in MLflow":
        project.registry.named["challenger"] = 2
        look(project, toy.START)
    else:
        challenge(project, 2, "try", stage="canary", by_hand=begun == "by hand", who="ann")
    if begun.startswith("by itself"):
        challenge(project, 2, "mine", bake=30, who="ann")
    current = project.releases.current()
    with pytest.raises(GateClosed, match="set beside the champion, is under way"):
        release_passed(project, 3, "newest", stage=stage)
    assert project.releases.current() == current
    assert challenge(project, 3, "mine", who="bob").version == 3


def test_what_was_set_beside_by_itself_is_overtaken_by_what_passes_later(project):
    """And a watch by a new champion, but not by one that is to stand beside."""
    release_passed(project, 1, "first")
    release_passed(project, 2, "newer", stage="canary")
    assert release_passed(project, 3, "newest").state == "watched"
    with pytest.raises(GateClosed, match="version 3 is watched"):
        release_passed(project, 2, "again", stage="canary")


@pytest.mark.parametrize("stage", ["full", "canary"])
def test_a_release_that_fails_ends_nothing(project, monkeypatch, stage):
    """What was under way goes on; the failure is in the record."""
    release_passed(project, 1, "first")
    under_way, named = release_passed(project, 2, "newer", stage=stage), dict(project.registry.named)

    def refuse(project, version):
        raise MonitorsDown("monitors", got="none", expected="all", next_step="Wait.")

    monkeypatch.setattr("flows.releasing.release.require_monitors", refuse)
    with pytest.raises(MonitorsDown):
        release_passed(project, 3, "newest")
    assert (project.releases.current(), project.registry.named) == (under_way, named)
    last = project.releases.rollouts()[-1]
    assert (last.version, last.state) == (3, "stopped")
    assert "could not be promoted" in last.reasons[-1]


def test_a_kill_leaves_no_canary_of_the_champion(project, monkeypatch):
    """Version 2 was promoted, its canary not withdrawn: the next look does that."""
    release_passed(project, 1, "first")
    rollout = release_passed(project, 2, "newer", stage="canary")
    with monkeypatch.context() as patch:
        patch.setattr("flows.releasing.release.withdraw", kill)
        with pytest.raises(Killed):
            promote_and_watch(project, 2, "better", rollout=rollout)
    assert project.registry.named["challenger"] == 2
    watched = look(project, toy.START).rollout
    assert (watched.state, project.registry.named) == ("watched", {"champion": 2, "previous": 1})
    assert watched.terms["from"] == toy.START.isoformat()
    roll_back(project, "bad", by_hand=False, rollout=watched.id)
    assert project.registry.named == {"champion": 1, "previous": 2}


def test_terms_that_a_person_changed_while_monitors_were_asked_hold(project):
    """What was made ready before the lock tells of latency and time; the terms are those of now."""
    release_passed(project, 1, "first")
    rollout = release_passed(project, 2, "newer", stage="canary")
    readied = make_ready(project, 2, parse_terms(None))
    changed = challenge(project, 2, "longer", bake=30, who="ann")
    watched = promote_and_watch(project, 2, "better", rollout=changed, readied=readied)
    assert (watched.id, watched.terms["bake"]) == (rollout.id, 30.0)


def test_a_release_killed_before_its_alias_moved_takes_nobodys_place(project, monkeypatch):
    """The watch before it goes on, and the next reconciling closes the record."""
    release_passed(project, 1, "first")
    watched = release_passed(project, 2, "newer")
    with monkeypatch.context() as patch:
        patch.setattr("flows.releasing.release.move_champion", kill)
        with pytest.raises(Killed):
            release_passed(project, 3, "newest")
    assert project.releases.current() == watched
    reconcile_previous(project)
    assert project.releases.rollouts()[-1].state == "stopped"
    assert project.releases.current() == watched


def test_a_challenger_that_was_clicked_is_judged(project):
    """By the terms in its tag, as by hand; without any it is a shadow."""
    release_passed(project, 1, "first")
    challenge(project, 2, "try", stage="canary", share=0.3)
    promote_version(project, 3, "no", by_hand=True)
    for version, stage in ((2, "canary"), (1, "shadow")):
        project.registry.named["challenger"] = version
        found = look(project, toy.START).rollout
        assert (found.version, found.baseline, found.state) == (version, 3, "beside")
        assert (found.terms["stage"], found.terms["from"]) == (stage, toy.START.isoformat())
    assert project.releases.moves()[-1].how == "noticed"


def test_a_clock_that_goes_back_leaves_the_order(project, monkeypatch):
    """What was written last is last, and no instant is before the one that was written before it."""
    release_passed(project, 1, "first")
    release_passed(project, 2, "second")
    past = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr("flows.releasing.release_state.now", lambda: past.isoformat(timespec="microseconds"))
    promote_version(project, 3, "back", by_hand=True)
    count = len(project.releases.moves())
    reconcile_previous(project)
    moves = project.releases.moves()
    assert (project.releases.last("champion"), len(moves)) == (3, count)
    assert [move.at for move in moves] == sorted(move.at for move in moves)
    assert find_served(moves, datetime.now(UTC))["champion"] == 3


def test_the_way_back_is_not_to_what_was_just_rolled_back(project):
    """A person's roll-back after an automatic one goes on backwards; by number they may still go there."""
    for version in (1, 2, 3):
        release_passed(project, version, "on")
    roll_back(project, "errors", by_hand=False, rollout=project.releases.current().id)
    reconcile_previous(project)
    assert project.releases.rollouts()[-1].state == "rolled back"
    assert project.registry.named == {"champion": 2, "previous": 3}
    assert roll_back(project, "worse still", who="ann").after == 1
    assert promote_version(project, 3, "I mean it", by_hand=True).after == 3


def test_what_a_person_put_back_is_a_way_back_again(project):
    """Whoever made it champion once more after its roll-back meant it."""
    for version in (1, 2):
        release_passed(project, version, "on")
    roll_back(project, "errors", by_hand=False, rollout=project.releases.current().id)
    promote_version(project, 2, "it was the store", by_hand=True, who="ann")
    release_passed(project, 3, "newer")
    assert roll_back(project, "errors", by_hand=False, rollout=project.releases.current().id).after == 2


def test_what_ended_meanwhile_stops_no_release(project, monkeypatch):
    """A watch that came to its end while the monitors were asked is nobody who overtook."""
    for version in (1, 2):
        release_passed(project, version, "on")
    watch = project.releases.current()
    while_monitors_are_asked(monkeypatch, lambda: project.releases.end(watch, "kept", ["its bake time"]))
    assert release_passed(project, 3, "newer").state == "watched"


@pytest.mark.parametrize("stage", ["full", "shadow"])
def test_a_verdict_against_another_champion_releases_nothing(project, stage):
    """Whatever moved between the verdict and the release."""
    for version in (1, 2):
        release_passed(project, version, "on")
    project.releases.end(project.releases.current(), "kept", [])
    with pytest.raises(GateClosed, match="overtaken"):
        release_passed(project, 3, "held against 1", stage=stage, met=1)
    assert project.registry.named == {"champion": 2, "previous": 1}
    assert release_passed(project, 3, "held against 2", stage=stage, met=2).state in {"watched", "beside"}


def test_what_was_rolled_back_is_the_way_back_if_nothing_else_is_left(project):
    """As with two versions."""
    release_passed(project, 1, "first")
    release_passed(project, 2, "second")
    roll_back(project, "errors", by_hand=False, rollout=project.releases.current().id)
    assert roll_back(project, "no, it was not that", who="ann").after == 2


def test_no_error_ends_the_keeper(project, monkeypatch):
    """A full disk is told, and the next try is made."""
    keeper = Keeper(project, lambda: {"champion": 1})

    def fail(*args):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(project.releases, "_run", fail)
        assert not keeper.tend()
        keeper.look()
    assert keeper.tend()


def test_the_keeper_looks_at_a_champion_that_was_clicked(project):
    """Nobody waits a day for its watch."""
    release_passed(project, 1, "first")
    project.registry.named["champion"] = 2
    Keeper(project, project.registry.aliases).look()
    assert (project.releases.current().version, project.releases.current().state) == (2, "watched")


class Failing(FakeRegistry):
    """A registry whose n-th write fails, before or after it took effect."""

    def __init__(self, of, nth, *, after):
        super().__init__()
        vars(self).update(vars(of))
        self.left, self.after = nth, after

    def _write(self, write, *told):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise RegistryUnavailable("registry", got="nothing", expected="an answer", next_step="Wait.")
        write(*told)
        if self.left == 0:
            raise RegistryUnavailable("registry", got="nothing", expected="an answer", next_step="Wait.")

    def set_alias(self, *told):
        self._write(super().set_alias, *told)

    def delete_alias(self, *told):
        self._write(super().delete_alias, *told)

    def tag(self, *told):
        self._write(super().tag, *told)

    def write_tag(self, *told):
        self._write(super().write_tag, *told)


def check_consistent(project):
    """The record names what the aliases do, `previous` is no champion, and one rollout is where it says."""
    named, state = project.registry.named, project.releases
    assert {alias: state.last(alias) for alias in ("champion", "challenger")} == {
        alias: named.get(alias) for alias in ("champion", "challenger")
    }
    assert [move for move in state.moves() if move.how == "noticed"] == []
    assert named["previous"] != named["champion"]
    assert named.get("challenger") != named["champion"]
    opened = state.open_rollouts()
    assert len(opened) <= 1
    for rollout in opened:
        assert named["champion" if rollout.state == "watched" else "challenger"] == rollout.version
    assert "challenger" not in named or opened


CALLS = {
    "release over a watch": (lambda p: release_passed(p, 3, "newest"), {"champion": 3, "previous": 2}),
    "release over a canary": (lambda p: release_passed(p, 3, "newest"), {"champion": 3, "previous": 2}),
    "promotion of a canary": (lambda p: release_passed(p, 1, "newest"), {"champion": 1, "previous": 2}),
    "challenge over a watch": (
        lambda p: challenge(p, 3, "try", stage="canary"),
        {"champion": 2, "previous": 1, "challenger": 3},
    ),
    "challenge over a canary": (
        lambda p: challenge(p, 3, "try", stage="canary"),
        {"champion": 2, "previous": 1, "challenger": 3},
    ),
    "roll-back of a watch": (lambda p: roll_back(p, "bad"), {"champion": 1, "previous": 2}),
    "roll-back over a canary": (lambda p: roll_back(p, "bad"), {"champion": 1, "previous": 2}),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", CALLS)
def test_whichever_write_fails_a_repeat_makes_all_consistent(project, name, after):
    """Aliases, record and `previous`, after any failure and the same call once more."""
    call, wanted = CALLS[name]
    whole, home = project.registry, project.settings.home
    for nth in range(1, 12):
        registry = FakeRegistry()
        registry.packages, registry.tags = dict(whole.packages), dict(whole.tags)
        world = replace(project, settings=project.settings.model_copy(update={"home": home / str(nth)}))
        vars(world)["registry"] = registry
        release_passed(world, 1, "first")
        release_passed(world, 2, "second")
        if "canary" in name:
            world.releases.end(world.releases.current(), "kept", [])
            challenge(world, 1, "as before", stage="canary", by_hand=False)
        vars(world)["registry"] = failing = Failing(registry, nth, after=after)
        try:
            call(world)
        except RegistryUnavailable:
            moved = name.startswith("roll") and failing.named["champion"] == 1
            if not moved:  # a second roll-back would be another one
                call(world)
        reconcile_previous(world)
        assert failing.named == wanted, nth
        check_consistent(world)
        if failing.left > 0:
            break
    assert 2 < nth < 11
