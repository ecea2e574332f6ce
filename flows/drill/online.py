"""Faults put into the online store: rows that go, values that change. The lake stays as it is."""

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING

from feature_repo.online_tables import quote
from feature_repo.store import PROJECT

if TYPE_CHECKING:
    from flows.project import Project


def drop_rows(project: "Project", view: str, keys: Mapping[str, str]) -> int:
    """Delete a view's rows of some keys; return how many there were."""
    where = " AND ".join(f"{quote(key)} = ?" for key in keys)
    return _execute(project, f"DELETE FROM {_name(view)} WHERE {where}", tuple(keys.values()))  # noqa: S608


def change_values(project: "Project", view: str, feature: str, formula: str) -> int:
    """Set a feature of all rows to a formula of itself, `x`; return how many rows changed."""
    told = formula.replace("x", quote(feature))
    return _execute(project, f"UPDATE {_name(view)} SET {quote(feature)} = {told}", ())  # noqa: S608


def _name(view: str) -> str:
    return quote(f"{PROJECT}_{view}")


def _execute(project: "Project", statement: str, values: tuple[str, ...]) -> int:
    path = project.settings.home / "feast" / "online.db"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
    try:
        with connection:
            return connection.execute(statement, values).rowcount
    finally:
        connection.close()
