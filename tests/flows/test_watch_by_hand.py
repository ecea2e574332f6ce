"""A version that a person made champion in MLflow, past the gate, is watched like any other release."""

from dataclasses import replace

import pytest

from flows.releasing.look import watch_moved
from flows.releasing.release import promote_version, reconcile_previous
from flows.releasing.rollout import release_passed
from tests.packages import FakeRegistry


@pytest.fixture
def project(make_toy, tmp_path, monkeypatch):
    """A toy project whose first version serves, with two more that the gate never saw."""
    monkeypatch.setattr("flows.releasing.release.require_monitors", lambda project, version: None)
    toy = make_toy()
    toy = replace(toy, settings=toy.settings.model_copy(update={"required_monitors": ""}))
    (tmp_path / "package").mkdir()
    vars(toy)["registry"] = registry = FakeRegistry()
    for _ in range(3):
        registry.register(tmp_path / "package", "run", {})
    registry.tag(1, "perennial.gate", "passed")
    release_passed(toy, 1, "first")
    return toy


def test_a_champion_made_by_a_click_is_watched_against_the_one_before(project):
    """From the instant at which it was noticed; a second look opens no second watch."""
    project.registry.set_alias("champion", 2)
    reconcile_previous(project)
    watch = watch_moved(project)
    assert (watch.version, watch.baseline, watch.state) == (2, 1, "watched")
    assert watch.since == project.releases.moves()[-1].at
    assert watch_moved(project) is None
    assert len(project.releases.rollouts()) == 2


def test_a_champion_made_by_a_command_past_the_gate_is_watched_too(project):
    """`perennial promote` takes whatever the gate said: somebody must look at what came of it."""
    promote_version(project, 3, "I know better", by_hand=True)
    assert watch_moved(project).version == 3


def test_a_persons_second_word_holds(project):
    """What has served before, and is made champion again, is left alone."""
    project.registry.set_alias("champion", 2)
    reconcile_previous(project)
    project.releases.end(watch_moved(project), "rolled back", ["worse"])
    for version in (1, 2):
        project.registry.set_alias("champion", version)
        reconcile_previous(project)
        assert watch_moved(project) is None


def test_a_release_with_a_rollout_of_its_own_is_not_watched_twice(project):
    """Nor is the very first champion, which has nothing to be rolled back to."""
    assert watch_moved(project) is None
    project.registry.tag(2, "perennial.gate", "passed")
    rollout = release_passed(project, 2, "newer labels")
    assert watch_moved(project) is None
    assert project.releases.current().id == rollout.id
