"""A model version as a folder: loaded without running any code that came with it, and tested first."""

import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from feature_repo.errors import ModelRefused
from feature_repo.freshness import OnlineVector
from services.compiled import CompiledTrees, compile_estimator
from services.inputs import Inputs
from services.ladder import Rule

TOLERANCE = 1e-6  # how far a score may be from the one that training wrote down
NEEDED = ("MLmodel", "model.skops", "contract.json", "rule.json", "selftest.json")
SCIKIT_LEARN = "scikit-learn"
MANIFEST = "manifest.json"  # written beside our own copy
LOADING = (
    threading.Lock()
)  # loading reads signatures, and Python's parser fails at times in two threads at once

# Everything beyond plain data that a model file may name. A file with any other type is refused.
TRUSTED_TYPES = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils._bunch.Bunch",  # a dictionary: the members of a vote by name
    "sklearn.utils.validation.check_array",
)


log = logging.getLogger("perennial.models")


@dataclass(frozen=True)
class Package:
    """One model version, loaded. `compiled` scores in the estimator's place, if its family can be."""

    version: str
    contract: Mapping[str, Any]
    rule: Rule
    estimator: Any
    compiled: CompiledTrees | None = None

    @cached_property
    def inputs(self) -> Inputs:
        """Its inputs, as training saw them."""
        return Inputs(self.contract)

    @property
    def scored_by(self) -> str:
        """What scores."""
        return self.compiled.family if self.compiled else SCIKIT_LEARN

    def predict(self, rows: Sequence[Mapping[str, Any]], vectors: Sequence[OnlineVector] = ()) -> list[float]:
        """Return the probability of each row of named inputs; `vectors`, if told, are what they came of."""
        if not self.compiled:
            return self.predict_by_estimator(rows)
        return self.compiled.score(rows, [vector.memo for vector in vectors])

    def predict_by_estimator(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the same by scikit-learn."""
        import numpy as np
        import pandas as pd

        columns = {
            feature["name"]: np.array(
                [row[feature["name"]] for row in rows], dtype=float if feature["kind"] == "number" else object
            )
            for feature in self.contract["features"]
        }
        scores: list[float] = self.estimator.predict_proba(pd.DataFrame(columns))[:, 1].tolist()
        return scores


def load_package(folder: Path, version: str = "") -> Package:
    """Load a version's folder and answer its self-test.

    Raises ModelRefused if it is incomplete, names types beyond the list, has a contract or a rule that cannot
    answer a request, or its scores have changed. OSError, MemoryError and SystemError say nothing of the
    version: they are raised as they are, and it may be asked for again.
    """
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if lacking:
        raise _refuse(version, f"no {', '.join(lacking)}", "a whole package")
    try:
        with LOADING:
            package = Package(
                version=version,
                contract=json.loads((folder / "contract.json").read_text()),
                rule=_load_rule(folder / "rule.json", version),
                estimator=_load_estimator(folder / "model.skops"),
            )
            _try_inputs(package, folder)
            package, worst = _speed_up(package, folder)
    except (OSError, MemoryError, SystemError):  # the machine's or the interpreter's: tried again
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise _refuse(version, got, "a package that loads as data alone and answers") from error
    if not worst <= TOLERANCE:
        raise _refuse(version, f"a score {worst:.2g} off in its self-test", f"at most {TOLERANCE:g} off")
    return package


def _speed_up(package: Package, folder: Path) -> tuple[Package, float]:
    """Return the package, compiled if that passes the self-test, and its largest difference there."""
    if package.contract.get("scoring", {}).get("by") == SCIKIT_LEARN:  # as training found
        return package, find_difference(package, folder)
    try:
        compiled = compile_estimator(package.estimator, package.inputs.names, package.inputs.stored)
        fast = replace(package, compiled=compiled)
        worst = find_difference(fast, folder)
        if compiled is None or worst <= TOLERANCE:
            return fast, worst
        log.warning("version %s: compiled scores are %.2g off; scikit-learn scores", package.version, worst)
    except (MemoryError, SystemError):
        raise
    except Exception:  # also a library that is not there; scikit-learn is asked before the version is refused
        log.warning("version %s cannot be compiled; scikit-learn scores", package.version, exc_info=True)
    return package, find_difference(package, folder)


def find_difference(package: Package, folder: Path) -> float:
    """Return the largest difference from the scores that training wrote down; inf if one is no number."""
    asked = json.loads((folder / "selftest.json").read_text())
    scores = package.predict(asked["rows"])
    differences = [float(abs(a - b)) for a, b in zip(scores, asked["scores"], strict=True)]
    # A maximum with NaN in it is whatever came first.
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def measure_latency(package: Package, folder: Path, rounds: int = 100) -> float:
    """Return the 95th percentile, in milliseconds of CPU, of answering one row of the self-test.

    CPU and not wall-clock time: a busy machine must not get a model refused.
    """
    rows = json.loads((folder / "selftest.json").read_text())["rows"]
    taken = []
    for i in range(rounds):
        since = time.process_time()
        package.predict([rows[i % len(rows)]])
        taken.append(time.process_time() - since)
    return sorted(taken)[int(0.95 * rounds)] * 1_000


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path in it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def hash_package(folder: Path) -> str:
    """Return one SHA-256 over a folder's files and names."""
    return hashlib.sha256(json.dumps(hash_files(folder), sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path) -> None:
    """Write down what the folder holds, to be checked whenever it is read again."""
    (folder / MANIFEST).write_text(json.dumps(hash_files(folder), indent=1))


def is_intact(folder: Path) -> bool:
    """Return whether the folder holds exactly what its manifest says."""
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return manifest == hash_files(folder)


def _load_rule(path: Path, version: str) -> Rule:
    told = json.loads(path.read_text())
    if not isinstance(told["by"], str):
        raise TypeError(f"rule.json: by is {told['by']!r}, expected a feature's name")
    rates = {str(key): float(rate) for key, rate in told["rates"].items()}
    base_rate = float(told["base_rate"])
    for name, rate in {**rates, "base_rate": base_rate}.items():
        if not 0 <= rate <= 1:  # nor NaN
            raise ValueError(f"rule.json: {name} is {rate}, expected a probability")
    return Rule(version, told["by"], rates, base_rate)


def _try_inputs(package: Package, folder: Path) -> None:
    """Take a row of the self-test as a request is taken; a self-test scores its rows without the contract."""
    row = json.loads((folder / "selftest.json").read_text())["rows"][0]
    stored = {name: row[name] for name in package.inputs.stored}
    package.inputs.take([row], [OnlineVector(stored, (), {})])


def _load_estimator(path: Path) -> Any:
    import skops.io

    return skops.io.load(path, trusted=list(TRUSTED_TYPES))


def _refuse(version: str, got: str, expected: str) -> ModelRefused:
    return ModelRefused(
        f"model version {version or '(unnamed)'}",
        got=got,
        expected=expected,
        next_step="Promote another version, or train it again.",
    )
