"""Readmission: a person lets quarantined rows in, mended or as they are, and says why.

Steps, each safe to repeat: record the decision, land the rows, take them out of quarantine, bring
features, online store and labels after them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from feature_repo.contract import Period, RawTable
from feature_repo.errors import RowRefused
from flows.batches import validate_rows
from flows.corrections import Followed, follow_corrections
from flows.data_quality import write_metrics
from flows.manifests import landed_batches, read_manifests, record_manifests
from flows.project import Project
from flows.quarantine import (
    Decision,
    decode_row,
    encode_row,
    read_decisions,
    read_quarantine,
    record_decision,
    release_rows,
)


def readmit(
    project: Project,
    ids: Sequence[str],
    *,
    who: str,
    why: str,
    changes: Mapping[str, Any] | None = None,
    waive: bool = False,
) -> Followed:
    """Let rows in: those that pass today's rules, with `changes` applied; `waive` admits them as they are.

    Raises RowRefused if an id is unknown, or a row still breaks a rule; then none of them is let in.
    """
    if not why.strip() or not who.strip():
        raise RowRefused(
            f"readmission of {', '.join(ids)}",
            got="no reason" if who.strip() else "nobody who decides",
            expected="who decides and why, kept for good",
            next_step='Say why: --reason "...".',
        )
    ids = list(dict.fromkeys(ids))
    with project.lake.writer(f"readmission of {', '.join(ids)}"):
        for decision in [_decide(project, one, who, why, dict(changes or {}), waive) for one in ids]:
            record_decision(project.lake, decision)
        _settle(project)
    followed = follow_corrections(project)
    write_metrics(project)
    return followed


def _decide(project: Project, one: str, who: str, why: str, changes: dict[str, Any], waive: bool) -> Decision:
    kept = read_quarantine(project.lake).filter(pl.col("id") == one)
    if not len(kept):
        raise RowRefused(
            f"quarantined row {one}",
            got="no such row in quarantine",
            expected="the id of a row that is out",
            next_step="Run `perennial quarantine list`.",
        )
    held = kept.row(0, named=True)
    table = next(t for t in project.problem.raw if t.name == held["table"])
    original = decode_row(held["row"], table)
    mended = _mend(table, original, changes)
    broken = _find_broken(project, table, Period(held["since"], held["until"]), mended)
    if broken and not waive:
        raise RowRefused(
            f"row {one} of {table.name}",
            got=f"broken: {'; '.join(broken)}",
            expected="a row that keeps every rule",
            next_step="Mend it with --set column=value, or let it in as it is with --waive.",
        )
    return Decision(
        id=one,
        table=table.name,
        row=held["row"],
        changes=encode_row({name: mended[name] for name in changes}),
        waived="; ".join(broken),
        who=who,
        why=why,
        decided_at=datetime.now(UTC),
    )


def _mend(table: RawTable, row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    fixed = {*table.key, table.known_at}
    for name, value in changes.items():
        if name not in table.schema or name in fixed:
            raise RowRefused(
                f"column {name} of {table.name}",
                got=f"a change to {value!r}",
                expected=f"one of {', '.join(c for c in table.schema if c not in fixed)}",
                next_step="A key or an instant that is wrong is corrected at the source; then run restate.",
            )
    try:
        told = pl.DataFrame([{**row, **changes}], schema=dict(table.schema), strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise RowRefused(
            f"mended row of {table.name}",
            got=str(error).splitlines()[0],
            expected=", ".join(f"{name} as {table.schema[name]}" for name in changes),
            next_step="Give a value of that type.",
        ) from error
    return told.row(0, named=True)


def _find_broken(project: Project, table: RawTable, period: Period, row: Mapping[str, Any]) -> list[str]:
    """Return the rules that the row breaks among the rows that landed with it."""
    landed = project.lake.read(table.name, period, by=table.known_at)
    schema = dict(table.schema)
    beside = landed.select(list(schema)) if landed.width else pl.DataFrame(schema=schema)
    frame = pl.concat([beside, pl.DataFrame([row], schema=schema)])
    report = validate_rows(project, table, period, frame, {}, read_manifests(project.lake))
    return report.broken_rules().get(len(frame) - 1, [])


def _settle(project: Project) -> None:
    """Land every row that was let in and is still out."""
    lake, known = project.lake, read_manifests(project.lake)
    decided = {row["id"]: row for row in read_decisions(lake).to_dicts()}
    waiting = read_quarantine(lake).filter(pl.col("id").is_in(list(decided)))
    for (place, name), rows in waiting.group_by("place", "table", maintain_order=True):
        table = next(t for t in project.problem.raw if t.name == name)
        period = Period(rows["since"][0], rows["until"][0])
        mended = [
            {**decode_row(held["row"], table), **decode_row(decided[held["id"]]["changes"], table)}
            for held in rows.to_dicts()
        ]
        _land(project, table, period, rows["batch_id"][0], mended)
        batch = next((m for m in landed_batches(known, table.name) if f"{name} {m.period}" == place), None)
        if batch:
            # Counted from what is still out, so that a repeat after a kill counts the same.
            out = len(read_quarantine(lake).filter(place=place)) - len(mended)
            share = {"quarantined_share": out / max(batch.seen, 1)}
            told = replace(
                batch,
                accepted=batch.seen - out,
                quarantined=out,
                profile=json.dumps({**json.loads(batch.profile), **share}),
                version=lake.version(name),
                followed=False,
            )
            record_manifests(lake, [told])
        release_rows(lake, rows["id"].to_list())


def _land(
    project: Project, table: RawTable, period: Period, batch_id: str, rows: list[dict[str, Any]]
) -> None:
    landed = project.lake.read(table.name, period, by=table.known_at)
    new = pl.DataFrame(rows, schema=dict(table.schema)).with_columns(pl.lit(batch_id).alias("batch_id"))
    kept = landed.join(new, on=table.key, how="anti") if landed.width else new.clear()
    both = pl.concat([kept.select(new.columns), new])
    project.lake.replace(table.name, both, period, table.known_at)


def _refuse_constant(text: str) -> Any:
    raise RowRefused(
        f"value {text}", got="no number", expected="a number, text or null", next_step="Use null for missing."
    )


def parse_changes(given: Sequence[str]) -> dict[str, Any]:
    """Read `column=value` pairs; a value is JSON, or else text."""
    changes = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise RowRefused(
                f"--set {pair}", got="no column=value", expected="such as temp=41.2", next_step="Correct it."
            )
        try:
            changes[name] = json.loads(value, parse_constant=_refuse_constant)
        except json.JSONDecodeError:
            changes[name] = value
    return changes
