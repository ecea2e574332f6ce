"""Small, real model packages of any problem, fitted on made-up rows: what training writes, in seconds."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.contract import Problem
from feature_repo.errors import RegistryUnavailable

NAMES = ("EWR", "JFK", "UA", "north", "south")


def draw_rows(problem: Problem, rows: int, seed: int = 0) -> pd.DataFrame:
    """Return made-up model inputs of a problem: numbers from 0 to 10, a few gaps, five categories."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for feature in problem.features:
        if feature.kind == "category":
            columns[feature.name] = pd.Series(rng.choice(NAMES, rows), dtype=object)
        else:
            numbers = rng.uniform(0, 10, rows)
            columns[feature.name] = np.where(rng.random(rows) < 0.02, np.nan, numbers)
    return pd.DataFrame(columns)


def fit_estimator(problem: Problem, inputs: pd.DataFrame, seed: int = 0) -> Any:
    """Return a fitted estimator of the kind that training makes."""
    from flows.model import build_estimator

    rng = np.random.default_rng(seed)
    numbers = [f.name for f in problem.features if f.kind == "number"]
    late = rng.random(len(inputs)) < 0.1 + 0.06 * inputs[numbers[0]].fillna(5)
    return build_estimator(problem).fit(inputs, late.astype(int))


def write_package(folder: Path, problem: Problem, seed: int = 0) -> Path:
    """Write a whole package and return its folder; another seed is another model."""
    import skops.io

    inputs = draw_rows(problem, 2_000, seed)
    estimator = fit_estimator(problem, inputs, seed)
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    skops.io.dump(estimator, folder / "model.skops")
    contract = {
        "problem": problem.name,
        "feature_service": problem.feature_service,
        "features": [_describe(inputs, f.name, f.kind, f.source) for f in problem.features],
        "base_rate": 0.4,
        "trained_until": "2024-01-01T00:00:00+00:00",
        "metrics": {},
        "snapshot": "made up",
    }
    rates = {"by": problem.rule_by, "rates": {"5": 0.125, "10": 0.375}, "base_rate": 0.25}
    _write(folder / "contract.json", contract)
    _write(folder / "rule.json", rates)
    write_self_test(folder, estimator, inputs.head(20))
    return folder


def write_self_test(folder: Path, estimator: Any, inputs: pd.DataFrame, off: float = 0.0) -> None:
    """Write the self-test; `off` makes it one that the model fails."""
    rows = inputs.astype(object).where(inputs.notna(), None).to_dict("records")
    scores = [float(score) + off for score in estimator.predict_proba(inputs)[:, 1]]
    _write(folder / "selftest.json", {"rows": rows, "scores": scores})


def break_self_test(folder: Path) -> Path:
    """Make a package one that does not reproduce its own scores."""
    asked = json.loads((folder / "selftest.json").read_text())
    _write(folder / "selftest.json", {**asked, "scores": [1 - score for score in asked["scores"]]})
    return folder


def _describe(inputs: pd.DataFrame, name: str, kind: str, source: str) -> dict[str, Any]:
    numeric = kind == "number"
    return {
        "name": name,
        "kind": kind,
        "source": source,
        "min": float(inputs[name].min()) if numeric else None,
        "max": float(inputs[name].max()) if numeric else None,
        "null_share": float(inputs[name].isna().mean()),
        "categories": None if numeric else sorted(inputs[name].dropna().unique()),
        "importance": 0.1,
    }


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


class FakeRegistry:
    """A registry in memory, over packages in folders. `down` makes it unreachable."""

    def __init__(self) -> None:
        self.named: dict[str, int] = {}
        self.packages: dict[int, Path] = {}
        self.tags: dict[tuple[int, str], str] = {}
        self.model_tags: dict[str, str] = {}
        self.downloads = 0
        self.down = False

    def aliases(self) -> dict[str, int]:
        self._reach()
        return dict(self.named)

    def has(self, version: int) -> bool:
        self._reach()
        return version in self.packages

    def set_alias(self, alias: str, version: int) -> None:
        self._reach()
        if version not in self.packages:
            raise RegistryUnavailable("version", got="none", expected="one", next_step="Look.")
        self.named[alias] = version

    def delete_alias(self, alias: str) -> None:
        self._reach()
        self.named.pop(alias, None)

    def register(self, package: Path, run_id: str, tags: dict[str, str]) -> int:
        self._reach()
        version = len(self.packages) + 1
        self.packages[version] = package
        self.tags |= {(version, key): value for key, value in tags.items()}
        return version

    def download(self, version: int, to: Path) -> Path:
        self._reach()
        self.downloads += 1
        if version not in self.packages:
            raise RegistryUnavailable("version", got="none", expected="one", next_step="Look.")
        shutil.copytree(self.packages[version], to, dirs_exist_ok=True)
        return to

    def versions(self) -> dict[int, dict[str, str]]:
        self._reach()
        newest_first = sorted(self.packages, reverse=True)
        return {v: {k: t for (n, k), t in self.tags.items() if n == v} for v in newest_first}

    def tag(self, version: int, key: str, value: str) -> None:
        self._reach()
        self.tags[version, key] = value

    def read_version_tag(self, version: int, key: str) -> str | None:
        self._reach()
        return self.tags.get((version, key))

    def write_tag(self, key: str, value: str) -> None:
        self._reach()
        self.model_tags[key] = value

    def read_tag(self, key: str) -> str | None:
        self._reach()
        return self.model_tags.get(key)

    def _reach(self) -> None:
        if self.down:
            raise RegistryUnavailable("registry", got="nothing", expected="an answer", next_step="Start it.")
