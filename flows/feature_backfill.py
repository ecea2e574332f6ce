"""Backfill of one feature table: a new one is computed over the past, and the others are not touched."""

from dataclasses import dataclass
from datetime import date

from prefect import flow

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from flows.features import materialize_period, write_features
from flows.ingest import landed_until
from flows.lineage import emit_features
from flows.project import Project, open_project


@dataclass(frozen=True)
class Backfilled:
    """What came of it: rows in the lake, the table's version, and rows written online."""

    table: str
    period: Period
    rows: int
    version: int
    online: int

    def __str__(self) -> str:
        return (
            f"{self.table}: {self.rows} rows in {self.period}, version {self.version}, {self.online} online"
        )


def backfill_table(
    project: Project, name: str, since: date | None = None, until: date | None = None
) -> Backfilled:
    """Compute one feature table's ticks from all that has landed, or between two days. Safe to repeat.

    Raises NotEnoughData if the problem states no such table, the days stand the wrong way round, or
    nothing has landed in the period.
    """
    tables = {table.name: table for table in project.problem.feature_tables}
    if name not in tables:
        raise NotEnoughData(
            f"feature table {name}",
            got="no table of that name",
            expected=f"one of {', '.join(tables)}",
            next_step="State it in the problem first.",
        )
    if since and until and since >= until:
        raise NotEnoughData(
            f"feature table {name}",
            got=f"{since} as the first day and {until} as the day after the last",
            expected=f"a day after it: {since} or later is to be computed",
            next_step="Name the earlier day first.",
        )
    landed = landed_until(project)
    first = project.day(since).since if since else project.problem.start
    last = min(project.day(until).since, landed) if until else landed
    if first >= last:
        raise NotEnoughData(
            f"feature table {name}",
            got=f"data landed until {landed}",
            expected=f"some after {first}",
            next_step="Run backfill first.",
        )
    period = Period(first, last)
    # Opened before there are rows: it fills by itself what is empty online, and would leave none to count.
    _ = project.store
    with project.lake.writer(f"backfill of {name}"):
        frame = write_features(project, tables[name], period)
    online = materialize_period(project, {name: frame}, period)
    emit_features(project, period, tables=(tables[name],))
    return Backfilled(name, period, len(frame), project.lake.version(name), online)


@flow(name="backfill-features")
def backfill_features(table: str, since: date | None = None, until: date | None = None) -> str:
    """Compute one feature table over the past that has landed; the others stay as they are."""
    return str(backfill_table(open_project(), table, since, until))
