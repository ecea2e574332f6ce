"""The lock: what each version of the feature service was made of, checked in beside the code.

A definition under a service that the lock knows may not change; a new version of the service may be added.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feature_repo.contract import Problem
from feature_repo.errors import DefinitionChanged
from feature_repo.fingerprint import describe_inputs, describe_problem, find_changes

LOCK = Path(__file__).with_name("definitions.lock")
Lock = Mapping[str, Mapping[str, Any]]


def read_lock(path: Path = LOCK) -> Lock:
    """Return what is locked, by feature service; nothing if there is no lock yet."""
    told: Lock = json.loads(path.read_text()) if path.is_file() else {}
    return told


def write_lock(problem: Problem, path: Path = LOCK) -> bool:
    """Add the problem's feature service to the lock; return whether that changed it.

    Raises DefinitionChanged if what is locked already has changed.
    """
    lock = read_lock(path)
    require_locked(problem, lock, complete=False)
    if problem.feature_service in lock:
        return False
    inputs = [[f.name, f.kind, f.source] for f in problem.features]
    added = {problem.feature_service: {"inputs": inputs, "definitions": describe_inputs(problem)}}
    path.write_text(json.dumps({**lock, **added}, indent=1) + "\n")
    return True


def require_locked(problem: Problem, lock: Lock, *, complete: bool = True) -> None:
    """Raise DefinitionChanged if a locked definition has changed or, if `complete`, is not locked yet."""
    name, now = problem.feature_service, describe_problem(problem)
    found = [
        f"{service}: {change.table} with another {change.what}"
        for service, locked in lock.items()
        for change in find_changes(locked["definitions"], now)
        # What only older services take may go once no model uses it.
        if change.table in now or service == name
    ]
    inputs = [[f.name, f.kind, f.source] for f in problem.features]
    if name in lock and lock[name]["inputs"] != inputs:
        found.append(f"{name}: other inputs")
    if complete and name not in lock:
        found.append(f"{name}: not locked")
    if found:
        raise DefinitionChanged(
            f"feature service {name}",
            got="; ".join(dict.fromkeys(found)),
            expected=f"what {LOCK.name} says of it",
            next_step=(
                "Give what changed a new version beside the old, in a new version of the feature service, "
                "and run `perennial features --lock`. If no model was trained on it, take it out of the lock."
            ),
        )
