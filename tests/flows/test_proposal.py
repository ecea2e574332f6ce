"""Proposals: a yes is for the version that was named, and counts only once it was heard."""

from types import SimpleNamespace

import pytest

from feature_repo.errors import GateClosed
from flows.releasing.proposal import Decision, answer_proposal, decide, find_proposals
from flows.releasing.release import promote_version
from tests.packages import FakeRegistry

RUN = {
    "id": "r1",
    "name": "brave-owl",
    "flow_id": "f1",
    "state_type": "PAUSED",
    "state_name": "Suspended",
    "parameters": {"version": 2, "reason": "newer labels"},
}


class FakePrefect:
    """As much of Prefect's API as an answer needs. It hears an answer after `deaf` looks, or never."""

    def __init__(self, deaf: float = 1) -> None:
        self.run, self.flow, self.deaf, self.heard = dict(RUN), "propose", deaf, None

    def get(self, path):
        if path.startswith("/flows/"):
            return _Answer({"name": self.flow})
        if self.heard:
            self.deaf -= 1
            if self.deaf < 0:
                self.run |= {"state_type": "SCHEDULED"}
        return _Answer(dict(self.run))

    def post(self, path, json):
        if path.endswith("/filter"):
            return _Answer([self.run])
        self.heard = json["run_input"]
        return _Answer({"status": "ACCEPT"})


class _Answer:
    def __init__(self, body):
        self._body = body

    def raise_for_status(self):
        return self

    def json(self):
        return self._body


def say(client, version=2, **told):
    return answer_proposal(client, "r1", Decision(version=version, approve=True, **told), wait=lambda s: None)


def test_an_answer_counts_once_it_was_heard():
    """The run has left its pause; who and why went with it."""
    client = FakePrefect(deaf=2)
    assert say(client, who="ann", reason="looks good") == "brave-owl"
    assert client.heard == {"version": 2, "approve": True, "who": "ann", "reason": "looks good"}
    assert [one["version"] for one in find_proposals(client)] == [2]


def test_an_answer_that_is_not_heard_is_no_answer():
    """Prefect says 200 to what it does not take."""
    with pytest.raises(GateClosed, match="still waits"):
        say(FakePrefect(deaf=1e9))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"run": {**RUN, "state_type": "COMPLETED", "state_name": "Completed"}}, "which is Completed"),
        ({"flow": "backfill"}, "a proposal that waits"),
        ({"run": {**RUN, "parameters": {"version": 3}}}, "a proposal of version 3"),
    ],
)
def test_the_wrong_run_or_version_is_refused(change, found):
    """Nothing is sent to a run that is no proposal, waits for nothing, or is of another version."""
    client = FakePrefect()
    vars(client).update(change)
    with pytest.raises(GateClosed, match=found):
        say(client)
    assert client.heard is None


@pytest.fixture
def project(make_toy, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.releasing.release.require_monitors", lambda project, version: None)
    made = make_toy()
    vars(made)["registry"] = registry = FakeRegistry()
    for _ in range(2):
        registry.register(tmp_path / "package", "run", {"perennial.gate": "passed"})
    promote_version(made, 1, "first", by_hand=True)
    return made


def answered(**told):
    return SimpleNamespace(**{"version": 2, "approve": True, "who": "ann", "reason": "", **told})


def test_a_yes_releases_and_a_no_does_not(project):
    """The record names who said it; a stage sets it beside the champion."""
    assert "turned down by ann" in decide(project, 2, "newer", answered(approve=False))
    assert project.registry.named == {"champion": 1}
    decide(project, 2, "newer", answered(), "canary")
    assert project.registry.named == {"champion": 1, "challenger": 2}
    decide(project, 2, "newer", answered(reason="I looked"))
    assert project.registry.named == {"champion": 2, "previous": 1}
    last = next(m for m in reversed(project.releases.moves()) if m.alias == "champion")
    assert (last.who, last.reason) == ("ann", "newer; I looked")


def test_a_yes_to_another_version_moves_nothing(project):
    """In the UI anything can be typed."""
    with pytest.raises(GateClosed, match="about version 1"):
        decide(project, 2, "newer", answered(version=1))
    assert project.registry.named == {"champion": 1}
