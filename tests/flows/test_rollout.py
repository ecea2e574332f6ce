"""Rollouts: beside the champion or watched as the champion, each with its own reasons."""

from dataclasses import replace

import pytest

from feature_repo.errors import GateClosed
from flows.release import promote_version, reconcile_previous, roll_back
from flows.rollout import challenge, release_passed
from services.routing import TERMS, parse_terms
from tests.packages import FakeRegistry


@pytest.fixture
def project(make_toy, tmp_path):
    """A toy project with three versions that the gate passed, and no monitor to wait for."""
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
    assert rollout.terms == {"stage": "canary", "share": 0.2, "bake": 14}
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
    assert [(m.alias, m.after) for m in project.releases.moves()][-2:] == [("champion", 2), ("challenger", None)]
