"""Guards the features of live models: none of them may change what it means under a model that takes it.

What the live models were trained on stands in their contracts. It is kept under the home as well, for
when MLflow cannot be asked.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import DefinitionChanged, PerennialError
from feature_repo.fingerprint import (
    REQUEST,
    Change,
    Definition,
    describe_problem,
    find_changes,
    fingerprint_all,
)
from feature_repo.lake import write_atomically

if TYPE_CHECKING:
    from feature_repo.contract import Problem
    from flows.project import Project

LIVE = ("champion", "previous", "challenger")
FINGERPRINTS = "perennial.fingerprints"  # tag of a run and of a version: JSON, feature table -> fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveModel:
    """A version that an alias of LIVE names; no `definitions` if it was trained before they were kept."""

    version: int
    aliases: tuple[str, ...]
    definitions: Mapping[str, Definition]

    def __str__(self) -> str:
        return f"version {self.version}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")


def require_unchanged(project: "Project") -> Mapping[str, Definition]:
    """Return today's definitions. Raises DefinitionChanged if a live model takes one that was another."""
    now = describe_problem(project.problem)
    refuse_changes(project.problem, now, find_live_models(project))
    return now


def require_servable(project: "Project", version: int) -> None:
    """Raise DefinitionChanged if a version takes a feature that is defined otherwise by now."""
    told = project.registry.read_version_tag(version, FINGERPRINTS)
    now = describe_problem(project.problem)
    if told and not json.loads(told).items() <= fingerprint_all(now).items():
        refuse_changes(project.problem, now, [read_model(project, version, ())])


def refuse_changes(problem: "Problem", now: Mapping[str, Definition], models: Sequence[LiveModel]) -> None:
    """Raise DefinitionChanged if a model takes what is no longer so, naming models, tables and features."""
    takers: dict[Change, list[LiveModel]] = {}
    for model in models:
        for change in find_changes(model.definitions, now):
            takers.setdefault(change, []).append(model)
    if not takers:
        return
    tables = sorted({change.table for change in takers})
    concerned = sorted({str(model) for taking in takers.values() for model in taking})
    raise DefinitionChanged(
        f"definition of {', '.join(tables)}",
        got="; ".join(_tell(change) for change in takers),
        expected=f"what model {problem.name} {', '.join(concerned)} was trained on",
        next_step=_advise(problem, tables),
    )


def find_live_models(project: "Project") -> list[LiveModel]:
    """Return the live models, or those last known if MLflow does not answer, and say so in the log."""
    from flows.retention import check_answers

    try:
        check_answers(project.settings.mlflow_url)
        models = read_live_models(project)
    except PerennialError as error:
        models = recall_live_models(project)
        told = "features are checked against the %d live models last known here: %s"
        logger.log(logging.WARNING if models else logging.INFO, told, len(models), error)
        return models
    remember_live_models(project, models)
    return models


def read_live_models(project: "Project") -> list[LiveModel]:
    """Return the live models as the registry names them. Raises RegistryUnavailable, ModelRefused."""
    named: dict[int, list[str]] = {}
    for alias, version in project.registry.aliases().items():
        if alias in LIVE:
            named.setdefault(version, []).append(alias)
    return [read_model(project, version, aliases) for version, aliases in sorted(named.items())]


def read_model(project: "Project", version: int, aliases: Sequence[str]) -> LiveModel:
    """Return a version with the definitions in its contract."""
    contract = json.loads((project.package(version) / "contract.json").read_text())
    return LiveModel(version, tuple(sorted(aliases)), contract.get("definitions", {}))


def remember_live_models(project: "Project", models: Sequence[LiveModel]) -> None:
    """Keep what the live models take, for when the registry cannot be asked."""
    text = json.dumps([asdict(model) for model in models], indent=1)
    if not _file(project).is_file() or _file(project).read_text() != text:
        write_atomically(_file(project), text)


def recall_live_models(project: "Project") -> list[LiveModel]:
    """Return the live models as they were last known here; none if never."""
    if not _file(project).is_file():
        return []
    kept = json.loads(_file(project).read_text())
    return [LiveModel(one["version"], tuple(one["aliases"]), one["definitions"]) for one in kept]


def _file(project: "Project") -> Path:
    return project.settings.home / "feast" / "live_models.json"


def _tell(change: Change) -> str:
    return f"{change.table} ({', '.join(change.features)}) with another {change.what}"


def _advise(problem: "Problem", tables: Sequence[str]) -> str:
    service = re.sub(r"_v(\d+)$", lambda found: f"_v{int(found[1]) + 1}", problem.feature_service)
    ways = []
    for name in tables:
        table = next((t for t in problem.feature_tables if t.name == name), None)
        if table:
            ways.append(f"version={table.version + 1} of {table.plain_name} as a table of its own")
        elif name == REQUEST:
            ways.append("SideBySide((the old request function, one that adds inputs under new names))")
    return (
        f"Put the old definition back and state the new one beside it: {'; '.join(ways) or 'by a new name'}, "
        f"in feature service {service}. Keep the old one until no model uses it."
    )
