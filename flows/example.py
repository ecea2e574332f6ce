"""A request as a client sends it, made of what landed last."""

from typing import Any

from feature_repo.errors import PerennialError
from feature_repo.settings import Settings


def example_request(settings: Settings) -> dict[str, Any]:
    """Return a real request (a flight), as of the newest features that the online store holds.

    Raises PerennialError if nothing has landed yet.
    """
    import polars as pl

    from flows.ingest import landed_until
    from flows.project import open_project
    from flows.traffic import to_json

    project = open_project(settings)
    problem, now = project.problem, landed_until(project)
    raw = {table.name: project.lake.read(table.name) for table in problem.raw}
    if not any(len(frame) for frame in raw.values()):
        raise PerennialError(
            "example request",
            got="an empty lake",
            expected="rows of the raw tables",
            next_step="Run `perennial demo`, or `perennial backfill`.",
        )
    asked = problem.build_requests(raw)
    upcoming = asked.filter(pl.col(problem.decided_at) >= now)
    rows = upcoming if len(upcoming) else asked.tail(1)
    return to_json(rows.row(0, named=True), problem, now)
