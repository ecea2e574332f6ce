"""Quarantine: rows that broke a rule, with the rule; and who let which of them in afterwards, and why.

The quarantine holds the rows that are still out. A decision to readmit is kept for good, and is an input
of ingest: whenever the same row is delivered again, it is applied again.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from feature_repo.contract import Period, RawTable
from feature_repo.lake import Lake

QUARANTINE, READMISSIONS = "quarantine", "readmissions"
INSTANT = pl.Datetime("us", "UTC")
SCHEMA: Mapping[str, Any] = {
    **dict.fromkeys(("id", "place", "batch_id", "table", "rules", "row"), pl.String),
    **dict.fromkeys(("since", "until", "known_at"), INSTANT),
}
DECISIONS: Mapping[str, Any] = {
    **dict.fromkeys(("id", "table", "row", "changes", "waived", "who", "why"), pl.String),
    "decided_at": INSTANT,
}


@dataclass(frozen=True)
class Decision:
    """Who let a row in, and why.

    row      the row as it was delivered; `changes`: JSON of the columns that were mended
    waived   rules that the row may break, "; " between them
    """

    id: str
    table: str
    row: str
    changes: str
    waived: str
    who: str
    why: str
    decided_at: datetime


def quarantine_rows(lake: Lake, table: RawTable, batch_id: str, period: Period, bad: pl.DataFrame) -> None:
    """Keep a batch's bad rows (with the `rules` that each broke) in place of what it kept before."""
    if not len(bad) and not lake.has(QUARANTINE):
        return
    place = f"{table.name} {period}"
    rows = [encode_row(row) for row in bad.drop("rules").to_dicts()]
    frame = pl.DataFrame(
        {
            "id": [row_id(table.name, row) for row in rows],
            "place": [place] * len(bad),
            "batch_id": [batch_id] * len(bad),
            "table": [table.name] * len(bad),
            "rules": bad["rules"].to_list(),
            "row": rows,
            "since": [period.since] * len(bad),
            "until": [period.until] * len(bad),
            "known_at": bad[table.known_at].to_list(),
        },
        schema=dict(SCHEMA),
    )
    lake.replace_where(QUARANTINE, frame, "place", place)


def read_quarantine(lake: Lake) -> pl.DataFrame:
    """Return the rows that are still out, oldest first."""
    kept = lake.read(QUARANTINE)
    return (kept if kept.width else pl.DataFrame(schema=dict(SCHEMA))).sort("known_at", "id")


def release_rows(lake: Lake, ids: Collection[str]) -> None:
    """Take rows out of the quarantine, place by place."""
    kept = read_quarantine(lake)
    for place in kept.filter(pl.col("id").is_in(list(ids)))["place"].unique().sort():
        left = kept.filter((pl.col("place") == place) & ~pl.col("id").is_in(list(ids)))
        lake.replace_where(QUARANTINE, left, "place", place)


def read_decisions(lake: Lake) -> pl.DataFrame:
    """Return every decision to readmit."""
    known = lake.read(READMISSIONS)
    return known if known.width else pl.DataFrame(schema=dict(DECISIONS))


def record_decision(lake: Lake, decision: Decision) -> None:
    """Keep a decision, in place of an earlier one on the same row."""
    row = {name: getattr(decision, name) for name in DECISIONS}
    lake.replace_where(READMISSIONS, pl.DataFrame([row], schema=dict(DECISIONS)), "id", decision.id)


def apply_decisions(
    decided: pl.DataFrame, table: RawTable, frame: pl.DataFrame
) -> tuple[pl.DataFrame, dict[int, set[str]]]:
    """Return delivered rows with what people mended in them, and the rules waived, by row."""
    decisions = {row["id"]: row for row in decided.filter(pl.col("table") == table.name).to_dicts()}
    if not decisions:
        return frame, {}
    rows, waived = frame.to_dicts(), {}
    for place, row in enumerate(rows):
        decision = decisions.get(row_id(table.name, encode_row(row)))
        if decision:
            row.update(decode_row(decision["changes"], table))
            waived[place] = set(filter(None, decision["waived"].split("; ")))
    return pl.DataFrame(rows, schema=frame.schema), waived


def encode_row(row: Mapping[str, Any]) -> str:
    """Return a row as JSON that `decode_row` reads back to the same values."""
    return json.dumps({name: _encode(value) for name, value in row.items()})


def decode_row(text: str, table: RawTable) -> dict[str, Any]:
    """Return the values of an encoded row, instants as such."""
    told = json.loads(text)
    kinds = {name: pl.DataFrame(schema={name: kind}).dtypes[0] for name, kind in table.schema.items()}
    return {
        name: datetime.fromisoformat(value) if value is not None and kinds.get(name) == INSTANT else value
        for name, value in told.items()
    }


def row_id(table: str, row: str) -> str:
    """Return the id of a quarantined row: the same row delivered again has the same one."""
    return hashlib.sha256(f"{table}\n{row}".encode()).hexdigest()[:12]


def _encode(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
