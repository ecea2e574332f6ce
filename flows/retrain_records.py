"""Every retrain that was asked for: why, what was tried, what the gate said, what was released."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from feature_repo.lake import Lake
from flows.policy.patience import Tried

TABLE = "retrains"
MET = "perennial.gate_champion"  # tag of a version: the champion that the gate held it against, or "none"
INSTANT = pl.Datetime("us", "UTC")
# held: nothing was trained, or what passed had met another champion
# passed: released next, or once nothing is in its way any more
ASKED, HELD, REJECTED, PASSED, RELEASED = "asked", "held", "rejected", "passed", "released"
ENDED = (REJECTED, PASSED, RELEASED)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "key": pl.String,
    "asked_at": INSTANT,
    "until": INSTANT,
    "cause": pl.String,
    "reason": pl.String,
    "window": pl.String,
    "evidence": pl.String,
    "state": pl.String,
    "version": pl.Int64,
    "learned_from": pl.String,
    "tried": pl.String,
    "why": pl.String,
    "behind": pl.Float64,
    "released": pl.String,
    "stage": pl.String,
}


@dataclass(frozen=True, slots=True)
class Retrain:
    """One retrain. `asked_at` is wall-clock time, `until` logical.

    key           of the request: the monitor's window, or what Prefect calls the run
    cause         "event", "schedule" or "hand"
    evidence      the champion, feature service and code that it met
    learned_from  the window of the past that it chose; `tried`: all that it compared, as JSON
    why           the gate's reasons, or why it was held
    behind        log loss above that of the champion, on the rows judged; below 0 it is better
    stage         how it is to be released: "full", "shadow" or "canary"
    released      how it was: the rollout's stage and state, or what it waits for
    """

    key: str
    asked_at: datetime
    until: datetime
    cause: str
    reason: str
    window: str = ""
    evidence: str = ""
    state: str = ASKED
    version: int | None = None
    learned_from: str = ""
    tried: str = "[]"
    why: str = ""
    behind: float | None = None
    released: str = ""
    stage: str = "full"


def read_retrains(lake: Lake) -> list[Retrain]:
    """Return every retrain, as they were asked for."""
    rows = lake.read(TABLE)
    if not rows.width:
        return []
    if "stage" not in rows.columns:  # records of before it was kept
        rows = rows.with_columns(stage=pl.lit("full"))
    known = rows.with_columns(pl.col("stage").fill_null("full")).select(list(SCHEMA)).sort("asked_at", "key")
    return [Retrain(**row) for row in known.iter_rows(named=True)]


def record_retrain(lake: Lake, retrain: Retrain) -> Retrain:
    """Keep a retrain as it is now, in place of what was kept of it, and return it."""
    lake.replace_where(TABLE, pl.DataFrame([asdict(retrain)], schema=SCHEMA), "key", retrain.key)
    return retrain


def list_tried(retrains: Sequence[Retrain]) -> list[Tried]:
    """Return those that came to a verdict, in logical order, as the policy takes them."""
    ended = sorted((one for one in retrains if one.state in ENDED), key=lambda one: (one.until, one.asked_at))
    return [
        Tried(one.until, one.state != REJECTED, one.window, one.evidence, one.behind, one.cause)
        for one in ended
    ]


def tell_tried(tried: Sequence[dict[str, Any]]) -> str:
    """Return what was tried as JSON."""
    return json.dumps(list(tried), default=str)


def now() -> datetime:
    """Return the time on the wall."""
    return datetime.now(UTC)
