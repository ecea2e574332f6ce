"""The model registry: the only caller of MLflow's."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from feature_repo.errors import ModelRefused, RegistryUnavailable
from services.package import Package, hash_package, load_package
from services.registry_reader import RegistryReader

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Package", "Registry", "load_package"]

# Tag of a version: what its package hashed to. `register`, the only way in, has always written it; what is
# baked into an image never comes through here.
SHA256 = "perennial.sha256"


class Registry:
    """The versions of one registered model, and the aliases that say which one serves.

    `quick` is for the service, which asks twice a second and would rather know at once that nobody
    answers. MLflow reads its time limits from the environment, so it holds for the whole process.
    Every method raises RegistryUnavailable if MLflow does not answer, or answers with an error.
    """

    def __init__(self, url: str, name: str, *, quick: bool = False) -> None:
        self.url = url
        self.name = name
        self._quick = quick
        # Of one thread, which follows the aliases: a service asks nothing else of the registry often.
        self._reader = RegistryReader(url, name) if quick and RegistryReader.can_read(url) else None

    def aliases(self) -> dict[str, int]:
        """Return the version that each alias names; none if the model is not registered yet."""
        with self._reaching("aliases"):
            if self._reader:
                return self._reader.aliases()
            model = self._find()
        return {alias: int(version) for alias, version in model.aliases.items()} if model else {}

    def versions(self) -> dict[int, dict[str, str]]:
        """Return every version's tags, newest first."""
        with self._reaching("versions"):
            found = list(self._client.search_model_versions(f"name='{self.name}'"))
        return {int(v.version): dict(v.tags) for v in sorted(found, key=lambda v: -int(v.version))}

    def has(self, version: int) -> bool:
        """Return whether the version is there; one that was deleted is not."""
        with self._reaching(f"version {version}"):
            ask = lambda: self._client.get_model_version(self.name, str(version))  # noqa: E731
            return _absent_as_none(ask) is not None

    def set_alias(self, alias: str, version: int) -> None:
        """Make an alias name a version."""
        with self._reaching(f"alias {alias}"):
            self._client.set_registered_model_alias(self.name, alias, str(version))

    def delete_alias(self, alias: str) -> None:
        """Take an alias away; nothing happens if there is none."""
        if alias in self.aliases():
            with self._reaching(f"alias {alias}"):
                self._client.delete_registered_model_alias(self.name, alias)

    def tag(self, version: int, key: str, value: str) -> None:
        """Write a tag of a version."""
        with self._reaching(f"version {version}"):
            self._client.set_model_version_tag(self.name, str(version), key, value)

    def read_version_tag(self, version: int, key: str) -> str | None:
        """Return a tag of a version; None if the tag or the version is not there."""
        with self._reaching(f"version {version}"):
            if self._reader:
                return self._reader.version_tag(version, key)
            found = _absent_as_none(lambda: self._client.get_model_version(self.name, str(version)))
        return found.tags.get(key) if found else None

    def write_tag(self, key: str, value: str) -> None:
        """Write a tag of the registered model."""
        with self._reaching("tags"):
            self._client.set_registered_model_tag(self.name, key, value)

    def read_tag(self, key: str) -> str | None:
        """Return a tag of the registered model."""
        with self._reaching("tags"):
            model = self._find()
        return model.tags.get(key) if model else None

    def register(self, package: Path, run_id: str, tags: Mapping[str, str]) -> int:
        """Register a whole folder as a new version of the model, and return its number.

        The folder travels as the artifacts of a logged model of the run, so that it also shows there.
        """
        with self._reaching("a new version"):
            client = self._client
            if self._find() is None:
                client.create_registered_model(self.name)
            experiment = client.get_run(run_id).info.experiment_id
            model = client.create_logged_model(experiment, name=self.name, source_run_id=run_id)
            client.log_model_artifacts(model.model_id, str(package))
            model = client.finalize_logged_model(model.model_id, "READY")
            remote = self.url.startswith("http")  # a bare database cannot resolve models:/ by itself
            version = client.create_model_version(
                self.name,
                source=f"models:/{model.model_id}" if remote else model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
                tags={**tags, SHA256: hash_package(package)},
            )
        return int(version.version)

    def download(self, version: int, to: Path) -> Path:
        """Fetch a version's folder, whole or not at all, and return where it is: `to`.

        `to` may be an empty folder. Raises ModelRefused if nothing says what was registered, and
        RegistryUnavailable if something else came: a download that was cut short is whole the next time.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        promised = self.read_version_tag(version, SHA256)
        if not promised and self.has(version):
            raise ModelRefused(
                f"model version {version}",
                got=f"no tag {SHA256}",
                expected="the hash of what was registered",
                next_step="Register it by training, not by hand.",
            )
        part = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
        try:
            with self._reaching(f"version {version}"):
                came = self._fetch(version, part)
            if promised != hash_package(came):
                raise RegistryUnavailable(
                    f"files of model version {version}",
                    got="others than those registered",
                    expected=f"SHA-256 {promised}",
                    next_step="If this lasts, look at the artifact store, or train it again.",
                )
            came.replace(to)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return to

    def _fetch(self, version: int, part: Path) -> Path:
        if self._reader and self._reader.download(version, part / "files"):
            return part / "files"
        from mlflow.artifacts import download_artifacts

        uri = self._client.get_model_version_download_uri(self.name, str(version))
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(part), tracking_uri=self.url))

    def _find(self) -> Any:
        return _absent_as_none(lambda: self._client.get_registered_model(self.name))

    @cached_property
    def _client(self) -> "MlflowClient":
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        if self._quick:
            os.environ.update(MLFLOW_HTTP_REQUEST_TIMEOUT="2", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    @contextmanager
    def _reaching(self, subject: str) -> Iterator[None]:
        try:
            if self._quick and not self._reader and "_client" not in vars(self):
                _knock(self.url)
            yield
        except Exception as error:  # noqa: BLE001 - requests, urllib3, SQLAlchemy, MLflow have their own
            told = hide_credentials(self.url)
            raise RegistryUnavailable(
                f"{subject} of model {self.name} at {told}",
                got=f"{type(error).__name__}: {hide_credentials(str(error))[:300]}",
                expected="an answer",
                next_step="Look whether the MLflow server runs.",
            ) from (error if told == self.url else None)  # a traceback tells the cause as well


def hide_credentials(text: str) -> str:
    """Return a text without the user and the password of any address in it."""
    return re.sub(r"://[^/\s]*@", "://", text)


def _knock(url: str) -> None:
    """Raise OSError if nobody listens: importing MLflow takes seconds of a worker that just started."""
    told = urlsplit(url)
    if told.hostname and told.port:
        socket.create_connection((told.hostname, told.port), timeout=2).close()


def _absent_as_none(ask: Callable[[], Any]) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
