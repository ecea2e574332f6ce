"""Model versions: the registry that names them, packages as data, and what is live in this process.

The only caller of MLflow's registry.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from feature_repo.errors import ModelRefused, RegistryUnavailable
from services.ladder import Rule, Rungs

logger = logging.getLogger(__name__)

# Types that a model of ours may hold beside what skops trusts by itself. Anything else is refused.
TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
FILES = ("model.skops", "contract.json", "rule.json", "selftest.json")
TOLERANCE = 1e-6  # a self-test's scores must come back this close
TIMEOUT = "3"  # seconds for one call of the registry


@dataclass(frozen=True)
class Package:
    """One model version, loaded."""

    version: str
    estimator: Any
    contract: Mapping[str, Any]
    rule: Rule
    self_test: Mapping[str, Any]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the probability for each row of feature values."""
        import pandas as pd

        names = [feature["name"] for feature in self.contract["features"]]
        numbers = [f["name"] for f in self.contract["features"] if f["kind"] == "number"]
        frame = pd.DataFrame({name: [row[name] for row in rows] for name in names}, dtype=object)
        frame = frame.astype(dict.fromkeys(numbers, "float64"))
        return [float(p) for p in self.estimator.predict_proba(frame)[:, 1]]


def load_package(folder: Path, version: str = "") -> Package:
    """Load a version's folder without running code of it, and reproduce its self-test.

    Raises ModelRefused if a file is missing, a type is not trusted, or a score differs.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise _refuse(version, f"no {', '.join(missing)}", f"the files {', '.join(FILES)}")
    import skops.io

    try:
        found = skops.io.get_untrusted_types(file=folder / "model.skops")
        strange = sorted(set(found) - set(TRUSTED_TYPES))
        if strange:
            raise _refuse(version, f"types {', '.join(strange)}", "types of the trusted list only")
        estimator = skops.io.load(folder / "model.skops", trusted=list(TRUSTED_TYPES))
        contract, rule, self_test = (json.loads((folder / name).read_text()) for name in FILES[1:])
        package = Package(version, estimator, contract, Rule(**rule), self_test)
        scores = package.predict(self_test["rows"])
    except ModelRefused:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise _refuse(version, f"{type(error).__name__}: {error}", "a package that loads") from error
    worst = max((abs(a - b) for a, b in zip(scores, self_test["scores"], strict=True)), default=1.0)
    if worst > TOLERANCE:
        raise _refuse(version, f"self-test off by {worst:.2g}", f"scores within {TOLERANCE:g}")
    return package


class Registry:
    """Versions and aliases of one registered model. Every call raises RegistryUnavailable if it fails."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name

    def aliases(self) -> dict[str, int]:
        """Return alias -> version; empty if nothing was ever registered."""
        model = self._model()
        return {alias: int(v) for alias, v in model.aliases.items()} if model else {}

    def download(self, version: int, to: Path) -> Path:
        """Fetch a version's package into the folder `to`, whole or not at all, and return it."""
        import mlflow.artifacts

        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".fetch-") as part:
            uri = self._call("get_model_version_download_uri", self.name, str(version))
            try:
                got = mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=part, tracking_uri=self.url
                )
            except Exception as error:
                raise self._unavailable(error) from error
            write_checksums(Path(got))
            try:
                Path(got).rename(to)
            except OSError:
                # Another process brought the same version meanwhile, or an old copy is in the way.
                if not verify_checksums(to):
                    shutil.rmtree(to, ignore_errors=True)
                    Path(got).rename(to)
        return to

    def register(self, package: Path, run_id: str, tags: Mapping[str, str]) -> int:
        """Upload a package as one model version of a run and return its number."""
        if self._model() is None:
            self._call("create_registered_model", self.name)
        run = self._call("get_run", run_id)
        model = self._call(
            "create_logged_model", run.info.experiment_id, name=self.name, source_run_id=run_id
        )
        self._call("log_model_artifacts", model.model_id, str(package))
        self._call("finalize_logged_model", model.model_id, "READY")
        version = self._call(
            "create_model_version",
            self.name,
            source=f"models:/{model.model_id}",
            run_id=run_id,
            model_id=model.model_id,
            tags=dict(tags),
        )
        return int(version.version)

    def set_alias(self, alias: str, version: int) -> None:
        """Point an alias at a version."""
        self._call("set_registered_model_alias", self.name, alias, str(version))

    def tag(self, version: int, key: str, value: str) -> None:
        """Set a tag of a version."""
        self._call("set_model_version_tag", self.name, str(version), key, value)

    def read_version_tag(self, version: int, key: str) -> str | None:
        """Return a tag of a version, or None."""
        tags = self._call("get_model_version", self.name, str(version)).tags
        value = tags.get(key)
        return None if value is None else str(value)

    def write_tag(self, key: str, value: str) -> None:
        """Set a tag of the model."""
        self._call("set_registered_model_tag", self.name, key, value)

    def read_tag(self, key: str) -> str | None:
        """Return a tag of the model, or None."""
        model = self._model()
        value = model.tags.get(key) if model else None
        return None if value is None else str(value)

    @cached_property
    def _client(self) -> Any:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow import MlflowClient

        return MlflowClient(self.url, self.url)

    def _model(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise self._unavailable(error) from error

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return getattr(self._client, method)(*arguments, **named)
        except MlflowException as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"model registry at {self.url}",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            expected="an answer",
            next_step="Look at logs/mlflow.log; the service goes on with what it has.",
        )


class Aliases(Protocol):
    """What LiveModels needs of the registry."""

    def aliases(self) -> dict[str, int]:
        """Alias -> version."""

    def download(self, version: int, to: Path) -> Path:
        """Fetch a package."""


@dataclass(frozen=True)
class Live:
    """What serves in this process at one instant."""

    rungs: Rungs
    since: str


class LiveModels:
    """Follows the aliases from a background thread; a reader takes `live` whole, in one look."""

    def __init__(self, registry: Aliases, folder: Path, poll_seconds: float) -> None:
        self._registry, self._folder, self._poll = registry, folder, poll_seconds
        self._loaded: dict[int, Package] = {}
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="aliases")
        self.live = Live(Rungs(), _now())
        self.refused: dict[int, str] = {}
        self.registry_seen: str | None = None
        self.registry_error: str | None = None
        self.swaps = 0

    def start(self) -> None:
        """Serve the last verified versions at once, then follow the registry."""
        self._restore()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._wake.set()

    def check(self) -> None:
        """Look at the registry once and swap if an alias moved to a version that holds up."""
        try:
            aliases = self._registry.aliases()
        except RegistryUnavailable as error:
            self.registry_error = str(error)
            return
        self.registry_seen, self.registry_error = _now(), None
        champion = aliases.get("champion")
        serving = self.live.rungs.champion
        if champion is None or (serving and serving.version == str(champion) and self._settled(aliases)):
            return
        loaded = self._load(champion)
        if loaded is None:
            return  # refused, loudly; the one before goes on
        previous = aliases.get("previous")
        # Until somebody says otherwise, what served before is the way back.
        rung = self._load(previous) if previous not in (None, champion) else serving
        if rung is not None and rung.version == loaded.version:
            rung = self.live.rungs.previous
        changed = serving is None or serving.version != loaded.version
        self.live = Live(Rungs(loaded, rung, loaded.rule), _now() if changed else self.live.since)
        self.swaps += changed
        self._remember(loaded, rung)

    def _settled(self, aliases: Mapping[str, int]) -> bool:
        previous, rung = aliases.get("previous"), self.live.rungs.previous
        if previous is None or previous == aliases.get("champion") or previous in self.refused:
            return True
        return rung is not None and rung.version == str(previous)

    def _load(self, version: int | None) -> Package | None:
        if version is None or version in self.refused:
            return None
        if version not in self._loaded:
            folder = self._folder / str(version)
            try:
                if not verify_checksums(folder):
                    self._registry.download(version, folder)
                self._loaded[version] = load_package(folder, str(version))
            except RegistryUnavailable as error:
                self.registry_error = str(error)
                return None
            except ModelRefused as error:
                self.refused[version] = str(error)
                logger.error("refused: %s", error)
                return None
        return self._loaded[version]

    def _follow(self) -> None:
        while not self._wake.wait(self._poll):
            try:
                self.check()
            except Exception as error:  # the thread must outlive whatever a registry does
                self.registry_error = f"{type(error).__name__}: {error}"
                logger.exception("following the aliases failed; still serving what is live")

    def _remember(self, champion: Package, previous: Any) -> None:
        told = {"champion": champion.version, "previous": previous.version if previous else None}
        part = self._folder / f".live.{os.getpid()}"
        part.write_text(json.dumps(told))
        part.replace(self._folder / "live.json")

    def _restore(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            told = json.loads((self._folder / "live.json").read_text())
        except (OSError, ValueError):
            return
        versions = [told.get("champion"), told.get("previous")]
        rungs = [self._load_verified(v) for v in versions]
        if rungs[0] is not None:
            self.live = Live(Rungs(rungs[0], rungs[1], rungs[0].rule), _now())

    def _load_verified(self, version: str | None) -> Package | None:
        if version is None or not verify_checksums(self._folder / version):
            return None
        return self._load(int(version))


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each file of a package beside them."""
    sums = {name: _sha256(folder / name) for name in FILES if (folder / name).is_file()}
    (folder / "checksums.json").write_text(json.dumps(sums))


def verify_checksums(folder: Path) -> bool:
    """Tell whether the folder is whole: each file as it was when it was fetched."""
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        return set(sums) == set(FILES) and all(_sha256(folder / n) == s for n, s in sums.items())
    except (OSError, ValueError):
        return False


def measure_latency(package: Package, answers: int = 200) -> float:
    """Return the 95th percentile, in milliseconds, of one answer."""
    rows = package.self_test["rows"]
    times = []
    for i in range(answers):
        began = time.perf_counter()
        package.predict([rows[i % len(rows)]])
        times.append((time.perf_counter() - began) * 1_000)
    return sorted(times)[int(0.95 * answers)]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse(version: str, got: str, expected: str) -> ModelRefused:
    return ModelRefused(
        f"model version {version}".strip(),
        got=got,
        expected=expected,
        next_step="Promote another version; this one does not serve.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
