"""Live models: only what was verified serves, and what served goes on until something better does."""

import errno
import json
import math
import os
import shutil
import threading
from dataclasses import replace

import pytest

from feature_repo.errors import ModelRefused
from services import package as module
from services.definitions import build_require
from services.live import LiveModels
from services.metrics import Metrics
from services.package import find_difference, is_intact, load_package
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
    folder = shutil.copytree(packages[1], tmp_path / "package")
    (folder / name).unlink()
    with pytest.raises(ModelRefused, match=name):
        load_package(folder, "1")


def test_a_model_file_that_names_other_types_is_refused(packages, tmp_path):
    """What a model may name is pinned in code, not taken from the file."""
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    folder = shutil.copytree(packages[1], tmp_path / "package")
    skops.io.dump(FunctionTransformer(json.loads), folder / "model.skops")
    with pytest.raises(ModelRefused, match="json"):
        load_package(folder, "1")


def rewrite(file, change):
    """Change the JSON of a file in place."""
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


@pytest.fixture
def copied(packages, tmp_path):
    """A good package that a test may spoil."""
    return shutil.copytree(packages[1], tmp_path / "package")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda contract: contract["features"][0].pop("source"), "source"),
        (lambda contract: contract["features"][1].update(min="0"), "TypeError"),
    ],
    ids=["no source", "text as min"],
)
def test_a_contract_that_no_request_can_be_taken_by_is_refused(copied, change, told):
    """The estimator answers its self-test without it, and then every request would fail."""
    rewrite(copied / "contract.json", change)
    with pytest.raises(ModelRefused, match=told):
        load_package(copied, "1")


@pytest.mark.parametrize("wrong", [7.5, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["base_rate", "5"])
def test_a_rule_whose_rates_are_no_probabilities_is_refused(copied, name, wrong):
    """It is answered as one."""

    def change(rule):
        (rule if name == "base_rate" else rule["rates"])[name] = wrong

    rewrite(copied / "rule.json", change)
    with pytest.raises(ModelRefused):
        load_package(copied, "1")


def test_a_rule_by_what_is_no_name_is_refused(copied):
    """No row has such a feature, and a list cannot even be looked up."""
    rewrite(copied / "rule.json", lambda rule: rule.update(by=["hour"]))
    with pytest.raises(ModelRefused, match="by"):
        load_package(copied, "1")


class Spoilt:
    """An estimator that scores as another does, but for its last row."""

    def __init__(self, estimator):
        self.estimator = estimator

    def predict_proba(self, inputs):
        scores = self.estimator.predict_proba(inputs)
        scores[-1] = math.nan
        return scores


def test_a_score_that_is_no_number_does_not_pass_the_self_test(copied):
    """Wherever it stands among the others."""
    package = load_package(copied, "1")
    spoilt = replace(package, estimator=Spoilt(package.estimator), compiled=None)
    assert find_difference(spoilt, copied) == math.inf


@pytest.mark.parametrize("passing", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_trouble_of_the_machine_does_not_refuse_a_version(follow, registry, monkeypatch, passing):
    """The old champion goes on, and the next poll loads the new one."""
    models = follow()
    serve(models, registry, champion=1)
    with monkeypatch.context() as broken:

        def fail(_):
            raise passing

        broken.setattr(module, "_load_estimator", fail)
        assert serve(models, registry, champion=2) == (None, "1")
    assert models.read_status()["refused"] == {}
    assert serve(models, registry, champion=2) == ("2", "1")


def test_what_nobody_foresaw_in_a_version_holds_up_no_other(registry, tmp_path, caplog):
    """The old champion goes on, every alias is followed, and the log tells of it once."""

    def require(version, contract):
        if version == "2":
            raise AttributeError("no such thing")

    models = LiveModels(registry, tmp_path / "models", 60, Metrics(), require)
    serve(models, registry, champion=1)
    for _ in range(3):
        assert serve(models, registry, champion=2) == (None, "1")
    status = models.read_status()
    assert (status["reason"], status["registry"]["trouble"]) == ("champion_unreachable", None)
    assert "AttributeError" in status["unreachable"]["2"]
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1


@pytest.mark.parametrize("definitions", [[], "none", {"request": []}, {"request": {"fields": 3}}])
def test_a_contract_whose_definitions_cannot_be_read_is_refused(definitions):
    """It says nothing of what the version was trained on, and will not by the next poll."""
    with pytest.raises(ModelRefused, match="cannot be read"):
        build_require(TOY)("1", {"definitions": definitions})


def start(models):
    """Start and stop, with the registry asked at most once."""
    models.start()
    models.stop()
    return models.serving.versions[:2]


def test_what_serves_is_written_down_when_the_disk_has_room_again(follow, registry, tmp_path):
    """It was full when the champion moved; a poll that changes nothing writes it all the same."""
    models, record = follow(), tmp_path / "models" / "live.json"
    serve(models, registry, champion=1)
    record.unlink()
    record.mkdir()
    assert serve(models, registry, champion=2) == ("2", "1")
    assert models.read_status()["registry"]["trouble"] is None
    record.rmdir()
    models.poll()
    registry.down = True
    assert start(follow()) == ("2", "1")


def test_what_was_written_down_is_not_written_again(follow, registry, tmp_path):
    """A poll that changes nothing leaves the disk alone."""
    models, record = follow(), tmp_path / "models" / "live.json"
    serve(models, registry, champion=1)
    before = record.stat().st_ino
    models.poll()
    assert record.stat().st_ino == before


def test_a_worker_starts_and_answers_though_it_cannot_write(follow, registry, tmp_path):
    """What is on disk serves; only a restart would not know of a change."""
    serve(follow(), registry, champion=1)
    record = tmp_path / "models" / "live.json"
    record.write_text(json.dumps({"champion": "9", "previous": "1"}))
    record.with_name(f".live.json.{os.getpid()}").mkdir()
    registry.down = True
    assert start(follow()) == (None, "1")
    registry.down = False
    assert serve(follow(), registry, champion=1) == ("1", None)


@pytest.mark.parametrize("text", ["null", "[]", "7", '"1"', "{", "[" * 100_000, '{"champion": [1]}'])
def test_a_record_that_says_nothing_counts_as_absent(follow, registry, tmp_path, text):
    """The worker starts, and the registry tells it what serves."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "live.json").write_text(text)
    models = follow()
    registry.down = True
    assert start(models) == (None, None)
    registry.down = False
    assert serve(models, registry, champion=1) == ("1", None)


def test_two_workers_that_mend_a_damaged_copy_do_not_undo_each_other(follow, registry, tmp_path):
    """The second waits for the first and takes what it put in place."""
    serve(follow(), registry, champion=1)
    (tmp_path / "models" / "1" / "rule.json").write_text("{}")
    one, other = follow(), follow()
    download, second, both = registry.download, threading.Thread(target=other.poll), threading.Event()

    def meet(version, to):
        if second.ident is None:
            second.start()
            both.wait(1)  # without a lock the second comes by here
        else:
            both.set()
        return download(version, to)

    registry.download = meet
    one.poll()
    second.join()
    assert [models.serving.versions[0] for models in (one, other)] == ["1", "1"]
    assert not both.is_set()
    assert registry.downloads == 2
