"""A batch on its way into the lake: mend by decision, validate, quarantine, land, describe.

Each step is safe to repeat. What a batch is compared with: what was delivered together with it, what had
landed before, and its own past.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import polars as pl

from expectations.runner import Failure, Report, validate
from feature_repo.contract import Delivery, Period, RawTable
from feature_repo.lake import content_hash, write_atomically
from flows.changes import find_changes
from flows.manifests import LANDED, STOPPED, Manifest, read_history, record_manifests
from flows.project import Project
from flows.quarantine import apply_decisions, quarantine_rows, read_decisions

REMEMBERED = timedelta(days=70)  # how far back a batch is compared with its own past
MAX_QUARANTINED = 0.05  # a batch that loses more of its rows than this is not a few bad rows


@dataclass(frozen=True)
class Batch:
    """One delivery on its way in; `before` is the landed batch that it restates."""

    table: RawTable
    period: Period
    delivery: Delivery
    before: Manifest | None = None

    @cached_property
    def sha256(self) -> str:
        """Content hash of the rows as delivered."""
        return content_hash(self.delivery.frame)

    @property
    def differs(self) -> bool:
        """Whether the source tells other rows than it did before."""
        return self.before is None or self.sha256 != self.before.sha256

    @property
    def id(self) -> str:
        """The batch's name: table, period, the start of its hash, and which revision if not the first."""
        stretch = f"{self.period.since:%Y%m%dT%H%M}-{self.period.until:%Y%m%dT%H%M}"
        again = f"-r{self.revision}" if self.revision > 1 else ""
        return f"{self.table.name}-{stretch}-{self.sha256[:8]}{again}"

    @property
    def revision(self) -> int:
        """1, or more for a place that the source restates."""
        return self.before.revision + 1 if self.before else 1


def take_in(
    project: Project, batches: Mapping[str, Batch], known: pl.DataFrame, *, pages: bool = True
) -> list[Manifest]:
    """Validate and land batches that were delivered together, by table; the caller holds the lake."""
    manifests = [_take_in(project, batch, batches, known, pages) for batch in batches.values()]
    record_manifests(project.lake, manifests)
    return manifests


def _take_in(
    project: Project, batch: Batch, together: Mapping[str, Batch], known: pl.DataFrame, pages: bool
) -> Manifest:
    table, period, lake = batch.table, batch.period, project.lake
    frame, waived = apply_decisions(read_decisions(lake), table, batch.delivery.frame)
    report = validate_rows(project, table, period, frame, together, known)
    good, bad = split_rows(frame, report, waived)
    stops = [*report.stops, *_too_many(good, frame, report)]
    version, changes = -1, ""
    if not stops:
        changes = _compare(project, batch, good)
        quarantine_rows(lake, table, batch.id, period, bad)
        stamped = good.select(*table.schema, pl.lit(batch.id).alias("batch_id"))
        version = lake.replace(table.name, stamped, period, table.known_at)
    return Manifest(
        batch_id=batch.id,
        table=table.name,
        source=project.settings.source or project.problem.name,
        files=json.dumps([asdict(file) for file in batch.delivery.files]),
        sha256=batch.sha256,
        since=period.since,
        until=period.until,
        seen=len(frame),
        accepted=0 if stops else len(good),
        quarantined=0 if stops else len(bad),
        status=STOPPED if stops else LANDED,
        reasons=_tell(stops),
        warnings=_tell(report.warnings),
        schema=json.dumps({name: str(kind) for name, kind in frame.schema.items()}),
        profile=json.dumps({**report.profile, "quarantined_share": len(bad) / max(len(frame), 1)}),
        version=version,
        revision=batch.revision,
        changes=changes,
        followed=batch.before is None or bool(stops),
        page=_write_page(project, batch, report, wanted=pages or bool(stops or len(bad) or report.warnings)),
    )


def _compare(project: Project, batch: Batch, good: pl.DataFrame) -> str:
    """Return what a restatement changes, as JSON; empty for a first delivery."""
    if batch.before is None:
        return ""
    table, period = batch.table, batch.period
    landed = project.lake.read(table.name, period, by=table.known_at)
    killed = bool(set(landed["batch_id"]) - {batch.before.batch_id})
    if killed and project.lake.can_read(table.name, batch.before.version):
        # Landed by a run that was killed before it wrote its manifest: compare with what was there then.
        landed = project.lake.read(table.name, period, by=table.known_at, version=batch.before.version)
    return json.dumps(find_changes(landed.drop("batch_id"), good, table.key))


def _write_page(project: Project, batch: Batch, report: Report, *, wanted: bool) -> str:
    """Write the validation page of a batch; return its path under the home."""
    if not wanted:
        return ""
    from expectations.pages import render_page

    path = Path("pages") / batch.table.name / f"{batch.id}.html"
    write_atomically(project.settings.home / path, render_page(report, batch.id))
    return path.as_posix()


def _tell(failures: Sequence[Failure]) -> str:
    return "; ".join(f"{failure.rule}, but: {failure.observed}" for failure in failures)


def validate_rows(
    project: Project,
    table: RawTable,
    period: Period,
    frame: pl.DataFrame,
    together: Mapping[str, Batch],
    known: pl.DataFrame,
) -> Report:
    """Judge a batch's rows by every rule, beside what was delivered together with it."""

    def lookup(name: str, back: timedelta) -> pl.DataFrame:
        """Rows of a raw table; what is delivered together stands in place of what landed before."""
        other = together.get(name)
        wanted = next(t for t in project.problem.raw if t.name == name)
        since, until = period.since - back, max(period.since, other.period.since) if other else period.until
        landed = project.lake.read(name, Period(min(since, until), until), by=wanted.known_at)
        empty = pl.DataFrame(schema=dict(wanted.schema))
        parts = [landed.select(empty.columns) if landed.width else empty]
        told = (frame if name == table.name else other.delivery.frame) if other else empty
        # A delivery whose own schema is broken stops by itself, and vouches for nothing here.
        broken = any(told.schema.get(column) != kind for column, kind in empty.schema.items())
        return pl.concat([*parts, *([] if broken else [told.select(empty.columns)])])

    return validate(
        frame,
        table,
        period,
        rules=project.suite(table.name, period),
        add_columns=lambda checked: project.add_check_columns(table.name, checked, lookup),
        history=read_history(known, table.name, period.since, back=REMEMBERED),
        time_zone=project.problem.time_zone,
    )


def split_rows(
    frame: pl.DataFrame, report: Report, waived: Mapping[int, set[str]] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that may land, and the others with the rules that each broke in `rules`."""
    told = report.broken_rules()
    broken = {
        row: kept
        for row, rules in told.items()
        if (kept := [r for r in rules if r not in (waived or {}).get(row, ())])
    }
    indexed = frame.with_row_index("_row")
    bad = indexed.filter(pl.col("_row").is_in(list(broken)))
    rules = ["; ".join(broken[row]) for row in bad["_row"]]
    good = indexed.filter(~pl.col("_row").is_in(list(broken))).drop("_row")
    return good, bad.drop("_row").with_columns(pl.Series("rules", rules, dtype=pl.String))


def _too_many(good: pl.DataFrame, frame: pl.DataFrame, report: Report) -> list[Failure]:
    share = 1 - len(good) / len(frame) if len(frame) else 0.0
    if share <= MAX_QUARANTINED:
        return []
    broken = [f for f in report.failures if f.rows and f.severity == "critical"]
    most = sorted(broken, key=lambda failure: -len(failure.rows))[:3]
    told = f"{share:.1%}; most of them: {', '.join(failure.rule for failure in most)}"
    return [Failure(f"at most {MAX_QUARANTINED:.0%} of rows quarantined", "batch", told)]
