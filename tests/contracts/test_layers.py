"""The layers that pyproject.toml declares hold, and each external tool has one caller."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from flows.local.stack_services import PROJECT

ONLY_CALLERS = {
    "deltalake": ["feature_repo/lake.py"],
    "feast": [
        f"feature_repo/{name}.py" for name in ("definitions", "offline_store", "online_store", "store")
    ],
    "evidently": ["flows/drift_reports.py"],
    "great_expectations": ["expectations/runner.py"],
}
FOLDERS = ("expectations", "feature_repo", "flows", "services")


def find_importers(library: str) -> list[str]:
    found = [
        path.relative_to(PROJECT).as_posix()
        for folder in FOLDERS
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if library in _read_imports(path)
    ]
    return sorted(found)


def _read_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_imports_go_one_way():
    """flows may import services and expectations, those only feature_repo; Prefect stays in flows."""
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run((linter, "--no-cache"), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("library", sorted(ONLY_CALLERS))
def test_a_tool_has_its_callers_and_no_others(library):
    """A tool that is called from one place can be replaced there."""
    assert set(find_importers(library)) <= set(ONLY_CALLERS[library])


def test_only_the_service_knows_the_registry():
    """The registry is read and written in services/models.py alone."""
    callers = [
        path.relative_to(PROJECT).as_posix()
        for folder in FOLDERS
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if "set_registered_model_alias(" in path.read_text()
        or "get_model_version_by_alias(" in path.read_text()
    ]
    assert callers in ([], ["services/models.py"])
