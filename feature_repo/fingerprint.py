"""What defines each input of a model, and one short hash of it: equal if nothing can change a value.

A model carries the definitions that it was trained on. `find_changes` says what is no longer so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feature_repo.code_text import hash_text, read_code
from feature_repo.contract import FeatureTable, Problem
from feature_repo.request_inputs import list_functions

REQUEST = "request"
Definition = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A feature table, or the request's own inputs, that a model takes and that is now another.

    what   the parts that differ, for people
    """

    table: str
    features: tuple[str, ...]
    what: str


def describe_problem(problem: Problem) -> dict[str, Definition]:
    """Return the definitions of all that the problem states: each feature table, and the request's part."""
    told: dict[str, Definition] = {table.name: describe_table(table) for table in problem.feature_tables}
    return {**told, REQUEST: describe_request(problem)}


def describe_inputs(problem: Problem) -> dict[str, Definition]:
    """Return the definitions of what the model takes."""
    used = {table.name for table in problem.used_tables} | {REQUEST}
    return {name: told for name, told in describe_problem(problem).items() if name in used}


def describe_table(table: FeatureTable) -> Definition:
    """Return all that can change a value of a feature table, as plain JSON."""
    compute, ticks = read_code(table.compute), read_code(table.ticks)
    return {
        "keys": list(table.keys),
        "features": {name: str(kind) for name, kind in table.features.items()},
        "reads": list(table.reads),
        "every": str(table.every),
        "lookback": str(table.lookback),
        "ttl": str(table.ttl),
        "compute": compute[0],
        "ticks": ticks[0],
        "code": {**ticks[1], **compute[1]},
    }


def fingerprint(definition: Definition) -> str:
    """Return the hash of a definition: 16 characters."""
    return hash_text(json.dumps(definition, sort_keys=True))


def fingerprint_all(definitions: Mapping[str, Definition]) -> dict[str, str]:
    """Return the hash of each definition, by name."""
    return {name: fingerprint(told) for name, told in definitions.items()}


def find_changes(before: Mapping[str, Definition], now: Mapping[str, Definition]) -> list[Change]:
    """Return what a model was trained on and is now another, or gone."""
    changes = []
    for name, told in before.items():
        what = "it is gone" if name not in now else _compare(name, told, now[name])
        if what:
            changes.append(Change(name, tuple(told.get("features", {})), what))
    return changes


def describe_request(problem: Problem) -> Definition:
    """Return all that can change an input that is made from a request, as plain JSON."""
    first, *added = list_functions(problem.add_request_features)
    compute, code = read_code(first)
    fields = {name: str(kind) for name, kind in problem.request_fields.items()}
    names = [f.name for f in problem.features if f.source == REQUEST]
    told = {"fields": fields, "features": names, "compute": compute, "code": code}
    if not added:
        return told
    read = map(read_code, added)
    # By its place as well: what comes first has the name.
    beside = {f"{place}: {name}": fingerprint(own) for place, (name, own) in enumerate(read, start=2)}
    return {**told, "added": beside}


def _compare(name: str, before: Definition, now: Definition) -> str:
    if name == REQUEST:
        before, now = _drop_additions(before, now)
    parts = [_tell(part, before.get(part), now.get(part)) for part in {**before, **now}]
    return "; ".join(part for part in parts if part)


def _drop_additions(before: Definition, now: Definition) -> tuple[Definition, Definition]:
    """Return both without what is only new: functions beside the old ones change no input of theirs."""
    old = {"added": {}, **{part: told for part, told in before.items() if part != "features"}}
    new = {"added": {}, **{part: told for part, told in now.items() if part in old}}
    for part in ("fields", "added"):
        new[part] = {name: new[part].get(name) for name in old.get(part, {})}
    return old, new


def _tell(part: str, before: Any, now: Any) -> str:
    if before == now:
        return ""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = sorted(n for n in {**before, **now} if before.get(n) != now.get(n))
        return f"{part}: {', '.join(names)}" if names else f"{part}: in another order"
    return f"{part}: {before} -> {now}"
