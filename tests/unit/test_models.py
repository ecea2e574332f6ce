"""Live models: only what was verified serves, and what served goes on until something better does."""

import json

import pytest

from feature_repo.errors import ModelRefused
from services.live import LiveModels
from services.metrics import Metrics
from services.package import is_intact, load_package
from tests.packages import FakeRegistry, break_self_test, write_package
from tests.toy import TOY


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    good = {seed: write_package(folder / str(seed), TOY, seed) for seed in (1, 2)}
    return {**good, 3: break_self_test(write_package(folder / "3", TOY, 3))}


@pytest.fixture
def registry(packages):
    registry = FakeRegistry()
    for package in packages.values():
        registry.register(package, "run", {})
    return registry


@pytest.fixture
def follow(registry, tmp_path):
    def make():
        return LiveModels(registry, tmp_path / "models", 60, Metrics())

    return make


def serve(models, registry, **aliases):
    registry.named = aliases
    models.poll()
    return models.serving.versions[:2]


def test_the_alias_says_which_version_serves(follow, registry):
    """Champion and previous follow their aliases, and the rule comes with the champion."""
    models = follow()
    assert serve(models, registry, champion=2, previous=1) == ("2", "1")
    assert models.serving.rule.version == "2"


def test_without_an_alias_the_version_before_is_the_way_back(follow, registry):
    """`previous` absent, or the same as the champion: what served before stands in."""
    models = follow()
    serve(models, registry, champion=1)
    assert serve(models, registry, champion=2) == ("2", "1")
    assert serve(models, registry, champion=2, previous=2) == ("2", "1")


def test_a_version_that_fails_its_self_test_does_not_serve(follow, registry):
    """It is refused with its reason, and the one that served goes on."""
    models = follow()
    serve(models, registry, champion=1)
    assert serve(models, registry, champion=3) == (None, "1")
    status = models.read_status()
    assert status["reason"] == "champion_refused"
    assert "self-test" in status["refused"]["3"]
    assert serve(models, registry, champion=2) == ("2", "1")


@pytest.mark.parametrize("alias", ["previous", "challenger"])
def test_an_alias_on_a_version_that_cannot_be_fetched_holds_up_no_other(follow, registry, alias):
    """The champion moves, back too; the version is named, asked for again, and the registry is not blamed."""
    models = follow()
    serve(models, registry, champion=1, **{alias: 9})
    assert serve(models, registry, champion=2, **{alias: 9})[0] == "2"
    assert serve(models, registry, champion=1, **{alias: 9}) == ("1", "2")
    status = models.read_status()
    assert list(status["unreachable"]) == ["9"]
    assert status["registry"]["trouble"] is None
    serve(models, registry, champion=1)
    assert models.read_status()["unreachable"] == {}


def test_a_champion_that_cannot_be_fetched_is_told_and_comes_when_it_can(follow, registry, packages):
    """The one that answered last goes on as the previous rung, under a reason of its own."""
    models = follow()
    serve(models, registry, champion=1)
    assert serve(models, registry, champion=4) == (None, "1")
    assert models.read_status()["reason"] == "champion_unreachable"
    registry.register(packages[2], "run", {})
    assert serve(models, registry, champion=4) == ("4", "1")


def test_whether_the_registry_was_asked_once_is_known(follow, registry):
    """A worker without a model waits for that, but not for an answer."""
    models = follow()
    assert not models.settled.is_set()
    registry.down = True
    models.poll()
    assert models.settled.is_set()


def test_with_the_registry_down_the_service_goes_on(follow, registry):
    """Nothing changes but what is said of the registry."""
    models = follow()
    serve(models, registry, champion=1)
    registry.down = True
    assert serve(models, registry, champion=2) == ("1", None)
    assert models.read_status()["registry"]["trouble"]
    registry.down = False
    assert serve(models, registry, champion=2) == ("2", "1")
    assert models.read_status()["registry"]["trouble"] is None


def test_a_worker_starts_without_the_registry(follow, registry):
    """What served last is on disk, verified again, and serves at once."""
    serve(follow(), registry, champion=1)
    serve(follow(), registry, champion=2, previous=1)
    registry.down = True
    models = follow()
    models.start()
    models.stop()
    assert models.serving.versions[:2] == ("2", "1")


def test_a_damaged_copy_is_fetched_again(follow, registry, tmp_path):
    """A file that changed on disk never loads."""
    serve(follow(), registry, champion=1)
    (tmp_path / "models" / "1" / "rule.json").write_text("{}")
    assert serve(follow(), registry, champion=1) == ("1", None)
    assert registry.downloads == 2
    assert is_intact(tmp_path / "models" / "1")


def test_an_alias_that_moves_back_needs_no_registry_files(follow, registry):
    """Versions stay loaded, so that a roll-back is instant."""
    models = follow()
    for champion in (1, 2, 1):
        serve(models, registry, champion=champion)
    assert (models.serving.versions[:2], registry.downloads) == (("1", "2"), 2)


def test_no_champion_leaves_the_last_one_as_previous(follow, registry):
    """Taking the alias away is not taking the service away."""
    models = follow()
    serve(models, registry, champion=1)
    assert serve(models, registry) == (None, "1")
    assert models.read_status()["reason"] == "no_champion"


def test_a_package_scores_as_its_estimator_does(packages):
    """Gaps and unseen categories go in as they are."""
    package = load_package(packages[1], "1")
    row = {"shop": "never seen", "amount": None, "hour": 7.0, "shop_returned_1d": None}
    [score] = package.predict([row])
    assert 0 < score < 1


@pytest.mark.parametrize("name", ["model.skops", "contract.json", "rule.json", "selftest.json"])
def test_an_incomplete_package_is_refused(packages, tmp_path, name):
    """A version is whole or it does not serve."""
    import shutil

    folder = shutil.copytree(packages[1], tmp_path / "package")
    (folder / name).unlink()
    with pytest.raises(ModelRefused, match=name):
        load_package(folder, "1")


def test_a_model_file_that_names_other_types_is_refused(packages, tmp_path):
    """What a model may name is pinned in code, not taken from the file."""
    import shutil

    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    folder = shutil.copytree(packages[1], tmp_path / "package")
    skops.io.dump(FunctionTransformer(json.loads), folder / "model.skops")
    with pytest.raises(ModelRefused, match="json"):
        load_package(folder, "1")
