"""A model that came with the image: when it serves, and when a registry's does."""

import json
import re
from pathlib import Path

import pytest

from services.baked import name_version, seed_model
from services.live import LiveModels
from services.metrics import Metrics
from tests.packages import FakeRegistry, write_package
from tests.toy import TOY

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Two models."""
    folder = tmp_path_factory.mktemp("packages")
    return [write_package(folder / str(seed), TOY, seed) for seed in (1, 2)]


def serve(models):
    """Return what a worker serves that starts on a folder of models, with no registry to reach."""
    registry = FakeRegistry()
    registry.down = True
    live = LiveModels(registry, models, 60, Metrics())
    live.start()
    live.stop()
    return live.serving.versions[:2]


def test_a_baked_model_serves_when_no_registry_answers(packages, tmp_path):
    """The worker takes it as what served last."""
    assert seed_model(packages[0], tmp_path, "7", registry=False)
    assert serve(tmp_path) == ("7", None)


def test_a_new_image_brings_its_model(packages, tmp_path):
    """Without a registry the image is how a model comes; the one before it stays as the rung below."""
    seed_model(packages[0], tmp_path, "7", registry=False)
    seed_model(packages[1], tmp_path, "8", registry=False)
    assert serve(tmp_path) == ("8", "7")


def test_what_a_registry_gave_last_stays(packages, tmp_path):
    """An image is older than what its container has pulled since."""
    seed_model(packages[1], tmp_path, "8", registry=True)
    assert not seed_model(packages[0], tmp_path, "7", registry=True)
    assert serve(tmp_path) == ("8", None)


def test_an_image_without_a_model_seeds_nothing(tmp_path):
    """An empty folder is how an image says that its model comes from the registry."""
    (tmp_path / "empty").mkdir()
    assert not seed_model(tmp_path / "empty", tmp_path / "models", "", registry=True)
    assert not (tmp_path / "models").exists()


def test_seeding_again_mends_a_damaged_copy(packages, tmp_path):
    """Also after a kill in the middle of it."""
    seed_model(packages[0], tmp_path, "7", registry=False)
    (tmp_path / "7" / "model.skops").write_bytes(b"half")
    (tmp_path / ".7.seed").mkdir()
    seed_model(packages[0], tmp_path, "7", registry=False)
    assert serve(tmp_path) == ("7", None)
    assert json.loads((tmp_path / "live.json").read_text())["previous"] is None


@pytest.mark.parametrize("text", ["null", "[]", "7", "{", '{"champion": ["7"]}'])
def test_a_record_that_says_nothing_does_not_stop_an_image(packages, tmp_path, text):
    """It counts as absent."""
    tmp_path.joinpath("live.json").write_text(text)
    assert seed_model(packages[0], tmp_path, "7", registry=True)
    assert serve(tmp_path) == ("7", None)


def test_a_package_without_a_number_is_named_after_its_content(packages):
    """Two models never share a name."""
    one, other = (name_version(package) for package in packages)
    assert one != other
    assert one == name_version(packages[0])


def test_the_image_holds_the_versions_that_are_tested(packages):
    """Every pin of the image's lock is that of the project's."""
    pins = {}
    for name in ("requirements.lock", "requirements-service.lock"):
        found = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (PROJECT / name).read_text(), re.MULTILINE)
        pins[name] = set(found)
    assert pins["requirements-service.lock"]
    assert pins["requirements-service.lock"] <= pins["requirements.lock"]
