"""A canary over HTTP: a sticky share of the traffic, pins, and nobody who goes without an answer."""

import pytest

from services.routing import HEADER, TERMS, Terms, falls_to_challenger, parse_terms
from tests.contracts.test_service import ALWAYS, ORDER, open_world
from tests.packages import write_package
from tests.toy import TOY

NAMES = [f"o{i}" for i in range(60)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return [write_package(folder / str(seed), TOY, seed) for seed in (1, 2)]


@pytest.fixture
def world(tmp_path, packages):
    with open_world(tmp_path, packages) as opened:
        opened.registry.tag(2, TERMS, Terms("canary", 0.3).to_text())
        opened.serve(champion=1, challenger=2)
        yield opened


def ask(world, arm=None, **changes):
    headers = {HEADER: arm} if arm else {}
    answer = world.client.post("/predict", json={**ORDER, **changes}, headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["served_by"], body["reason"], body["model_version"]


def break_challenger(world):
    challenger = world.models.serving.challenger
    object.__setattr__(challenger, "compiled", None)
    object.__setattr__(challenger, "estimator", None)


def test_a_share_of_the_things_is_answered_by_the_challenger_and_always_the_same(world):
    """By a hash of the entity; alone or in a list makes no difference, and the journal has it."""
    alone = {name: ask(world, order_id=name) for name in NAMES}
    expected = {name for name in NAMES if falls_to_challenger(name, "2", 0.3)}
    assert 0 < len(expected) < len(NAMES)
    assert {name for name, told in alone.items() if told == ("challenger", "ok", "2")} == expected
    assert {told for name, told in alone.items() if name not in expected} == {("champion", "ok", "1")}
    many = world.client.post("/predict", json=[{**ORDER, "order_id": name} for name in NAMES]).json()
    assert {p["order_id"] for p in many["predictions"] if p["served_by"] == "challenger"} == expected
    journalled = world.journal.read_predictions(ALWAYS)
    assert set(journalled.filter(served_by="challenger")["entity"]) == expected
    world.client.app.prediction.shadow.stop()
    assert not len(world.journal.read_shadows(ALWAYS))


def test_a_share_that_grows_keeps_those_that_it_had():
    """Nobody is moved back and forth; another version has other guinea pigs."""
    few, many, other = (
        {name for name in NAMES if falls_to_challenger(name, version, share)}
        for version, share in (("2", 0.2), ("2", 0.5), ("3", 0.2))
    )
    assert few < many
    assert few != other


def test_the_share_is_the_share():
    """Of many things about as many as were asked for."""
    hits = sum(falls_to_challenger(f"thing {i}", "7", 0.1) for i in range(20_000))
    assert abs(hits / 20_000 - 0.1) < 0.01


def test_a_header_pins_either_arm(world):
    """The reason says so: what was pinned was not drawn, and is not compared."""
    for name in NAMES[:5]:
        assert ask(world, "challenger", order_id=name) == ("challenger", "pinned", "2")
        assert ask(world, "champion", order_id=name) == ("champion", "pinned", "1")


def test_an_arm_that_is_not_there_is_refused_by_name(world):
    """A typo must not pass for a choice."""
    answer = world.client.post("/predict", json=ORDER, headers={HEADER: "left"})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == HEADER


def test_a_pin_on_a_challenger_that_is_not_heard_says_so(world):
    """In shadow, or without any, the champion answers."""
    world.registry.tag(2, TERMS, Terms("shadow").to_text())
    world.models.poll()
    assert ask(world, "challenger") == ("champion", "no_canary", "1")


def test_a_challenger_that_fails_falls_back_to_the_champion(world):
    """Every one of its share is answered, and the reason tells whose turn it was."""
    break_challenger(world)
    told = {name: ask(world, order_id=name) for name in NAMES}
    mine = {name for name in NAMES if falls_to_challenger(name, "2", 0.3)}
    assert {told[name] for name in mine} == {("champion", "challenger_failed", "1")}
    assert {told[name] for name in NAMES if name not in mine} == {("champion", "ok", "1")}


def test_without_features_both_arms_fall_alike(world):
    """What is not the challenger's fault is not told as such."""
    world.store.age = None
    world.store.error = RuntimeError("gone")
    reasons = {ask(world, order_id=name)[1] for name in NAMES[:10]}
    assert reasons == {"features_unavailable"}


def test_the_terms_follow_their_tag(world):
    """Stage and share change with the next poll; what cannot be read leaves the challenger in shadow."""
    assert world.client.get("/live").json()["terms"] == {"stage": "canary", "share": 0.3}
    world.registry.tag(2, TERMS, Terms("canary", 0.5).to_text())
    world.models.poll()
    assert world.models.serving.terms.share == 0.5
    wide, deep = f'{{"share": 1{"0" * 400}}}', "[" * 100_000
    usual = ("{", "[]", '{"stage": "loud"}', '{"stage": "canary", "share": 1}', '{"share": "x"}')
    for nonsense in (*usual, wide, deep):
        world.registry.tag(2, TERMS, nonsense)
        world.models.poll()
        assert world.models.read_status()["registry"]["trouble"] is None
        assert world.models.serving.canary is None
        assert ask(world)[0] == "champion"


def test_another_challenger_does_not_take_over_the_terms(world, packages):
    """A person who moves the alias in MLflow gets a shadow, not the canary of the one before."""
    third = world.registry.register(packages[0], "run", {})
    world.serve(champion=1, challenger=third)
    assert (world.models.serving.versions[2], world.models.serving.canary) == (str(third), None)


@pytest.mark.parametrize("share", [0, -1, 0.6, float("nan")])
def test_terms_out_of_range_are_refused(share):
    """A canary is a small part."""
    with pytest.raises(ValueError, match="share"):
        Terms("canary", share)
    assert parse_terms(None) == Terms()
