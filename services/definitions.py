"""Whether the inputs of a request are made as a model was trained on them; tables are guarded elsewhere."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from feature_repo.contract import Problem
from feature_repo.errors import DefinitionChanged, ModelRefused
from feature_repo.fingerprint import REQUEST, Definition, describe_request, find_changes

Require = Callable[[str, Mapping[str, Any]], None]


def build_require(problem: Problem) -> Require:
    """Return what raises ModelRefused if a version's contract states another request function or fields.

    A contract from before definitions were kept passes.
    """

    @cache
    def describe() -> Definition:
        return describe_request(problem)

    def require(version: str, contract: Mapping[str, Any]) -> None:
        try:
            before = contract.get("definitions", {}).get(REQUEST)
            if before is None:
                return
            changes = find_changes({REQUEST: before}, {REQUEST: describe()})
        except DefinitionChanged as error:
            raise _refuse(version, str(error)) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _refuse(version, f"definitions that cannot be read ({error!r})") from error
        if changes:
            raise _refuse(version, f"another {changes[0].what}")

    return require


def accept_all(version: str, contract: Mapping[str, Any]) -> None:
    """Accept every version: for where no problem is known."""


def _refuse(version: str, got: str) -> ModelRefused:
    return ModelRefused(
        f"request inputs of model version {version}",
        got=got,
        expected="what it was trained on",
        next_step="Put the old request function back, beside a new one (feature_repo/request_inputs.py).",
    )
