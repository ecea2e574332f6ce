"""The registry's contract, held by the fake and by MLflow itself on a database file."""

import re
import traceback

import pytest

from feature_repo.errors import ModelRefused, RegistryUnavailable
from services.models import SHA256, Registry, hide_credentials
from services.package import hash_files
from tests.packages import FakeRegistry

USER = "ann:" + "secret"  # in two parts: a traceback shows the lines of this file


@pytest.fixture(scope="module")
def mlflow_run(tmp_path_factory):
    """A run on a real MLflow: its address, and the run's id."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    url = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(url, url)
    experiment = client.create_experiment("toy", artifact_location=str(folder / "artifacts"))
    return url, client.create_run(experiment).info.run_id


@pytest.fixture(params=["fake", "mlflow"])
def registered(request, tmp_path):
    """A registry, and a function that registers a folder in it."""
    if request.param == "fake":
        registry, run = FakeRegistry(), "run"
    else:
        url, run = request.getfixturevalue("mlflow_run")
        registry = Registry(url, f"toy-{tmp_path.name}")

    def register(text, **tags):
        folder = tmp_path / text
        folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {}\n")
        (folder / "contract.json").write_text(text)
        return registry.register(folder, run, tags)

    return registry, register


def test_a_model_that_was_never_registered_has_no_aliases(registered):
    """Before the first training there is nothing, and that is no error."""
    registry, _ = registered
    assert registry.aliases() == {}
    assert registry.read_tag("any") is None


def test_versions_count_up_and_come_back_whole(registered, tmp_path):
    """Every file of a folder travels with its version, byte for byte."""
    registry, register = registered
    assert [register("one"), register("two")] == [1, 2]
    came = registry.download(1, tmp_path / "came")
    assert hash_files(came) == hash_files(tmp_path / "one")


def test_a_version_comes_into_an_empty_folder(registered, tmp_path):
    """A temporary folder will do."""
    registry, register = registered
    (tmp_path / "empty").mkdir()
    assert (registry.download(register("one"), tmp_path / "empty") / "contract.json").read_text() == "one"


def test_aliases_move_and_go(registered):
    """An alias names one version at a time."""
    registry, register = registered
    first, second = register("one"), register("two")
    registry.set_alias("champion", first)
    registry.set_alias("champion", second)
    registry.set_alias("previous", first)
    assert registry.aliases() == {"champion": second, "previous": first}
    registry.delete_alias("previous")
    registry.delete_alias("previous")
    assert registry.aliases() == {"champion": second}


def test_tags_are_kept(registered):
    """Of the model and of each version."""
    registry, register = registered
    version = register("one", snapshot="abc")
    registry.tag(version, "gate", "passed")
    registry.write_tag("seen", "1")
    assert registry.read_version_tag(version, "gate") == "passed"
    assert registry.read_version_tag(version, "none") is None
    assert registry.read_version_tag(99, "gate") is None
    assert registry.read_tag("seen") == "1"
    assert registry.versions()[version]["snapshot"] == "abc"


def test_a_version_that_is_not_there_cannot_be_fetched(registered, tmp_path):
    """And leaves nothing behind."""
    registry, register = registered
    register("one")
    with pytest.raises(RegistryUnavailable):
        registry.download(99, tmp_path / "came")
    assert not (tmp_path / "came").exists()


def register_alone(mlflow_run, name, folder):
    """Return a registry of its own with one version in it."""
    url, run = mlflow_run
    registry = Registry(url, name)
    folder.mkdir()
    (folder / "contract.json").write_text("one")
    return registry, registry.register(folder, run, {})


def test_files_that_changed_in_the_store_do_not_come(mlflow_run, tmp_path):
    """What arrives must be what was registered; what was only cut short may be asked for again."""
    registry, version = register_alone(mlflow_run, "tampered", tmp_path / "one")
    promised = registry.read_version_tag(version, SHA256)
    registry.tag(version, SHA256, "another")
    with pytest.raises(RegistryUnavailable, match="another"):
        registry.download(version, tmp_path / "came")
    assert not (tmp_path / "came").exists()
    registry.tag(version, SHA256, promised)
    assert registry.download(version, tmp_path / "came").is_dir()


def test_a_version_that_nothing_vouches_for_is_refused(mlflow_run, tmp_path):
    """Without its hash nobody can say whether it is what was registered."""
    from mlflow import MlflowClient

    registry, version = register_alone(mlflow_run, "unvouched", tmp_path / "one")
    MlflowClient(registry.url, registry.url).delete_model_version_tag("unvouched", str(version), SHA256)
    with pytest.raises(ModelRefused, match=SHA256):
        registry.download(version, tmp_path / "came")
    assert not (tmp_path / "came").exists()


def test_a_registry_that_nobody_answers_for_says_so(monkeypatch):
    """An error of ours, with the address, and at once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailable, match=re.escape("127.0.0.1:9")):
        Registry("http://127.0.0.1:9", "toy").aliases()


@pytest.mark.parametrize("quick", [True, False])
def test_the_password_of_the_registry_is_not_told(monkeypatch, quick):
    """Neither in the error, which ends up in logs and on /live, nor in the cause of it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailable, match=re.escape("127.0.0.1:9")) as raised:
        Registry(f"http://{USER}@127.0.0.1:9", "toy", quick=quick).aliases()
    told = "".join(traceback.format_exception(raised.value))
    assert USER not in told


def test_an_address_is_told_without_its_user():
    """Wherever it stands in a text, also with an @ in the password; what has no user stays as it is."""
    assert hide_credentials("GET http://a:b@c@host/x and https://u@other: no") == (
        "GET http://host/x and https://other: no"
    )
    assert hide_credentials("http://host/a@b sqlite:////tmp/x.db") == "http://host/a@b sqlite:////tmp/x.db"
