"""Verdicts of the monitor: their shape, their table in the lake, and how they read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import Lake
from flows.policy.drift import ColumnDrift, DriftVerdict
from flows.policy.estimate import Estimate
from flows.policy.quality import Interval, QualityVerdict
from flows.policy.signals import Signal, list_alarms
from flows.policy.trigger import Trigger, WindowSigns

TABLE = "verdicts"
REQUESTS = "retrain_requests"
INSTANT = pl.Datetime("us", "UTC")
Schema = dict[str, pl.DataType | type[pl.DataType]]


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """What the monitor found about one model version in one window of predictions.

    answers   everything answered in the window, by whatever the service had
    rows      of those, distinct things answered by this version as champion
    flagged   share of `rows` with a missing, unseen, out-of-range or expired input
    estimate  the AUC that the scores alone make expect
    signals   what is watched beside it: each signal's state and reason; its alarms ask for a person
    report    the report's file name, or empty where there were too few rows for one, or it could not be drawn
    report_seconds  what the report took; the only field that differs between runs
    """

    window: Period
    asof: datetime
    version: str
    answers: int
    rows: int
    coverage: float
    flagged: float
    quality: QualityVerdict
    drift: DriftVerdict
    score_drift: ColumnDrift | None
    breaches: tuple[str, ...]
    reasons: tuple[str, ...]
    estimate: Estimate
    signals: tuple[Signal, ...]
    report: str = ""
    report_seconds: float = 0.0

    @property
    def key(self) -> str:
        """The verdict's id: window and model version."""
        return name_window(self.window, self.version)

    @property
    def alarms(self) -> tuple[str, ...]:
        """The signals that alarm."""
        return list_alarms(self.signals)


def name_window(window: Period, version: str) -> str:
    """Return the id of a window's verdict, fit for a file name."""
    return f"{window.since:%Y%m%dT%H%M}-{window.until:%Y%m%dT%H%M}-v{version}"


def record_verdict(lake: Lake, verdict: WindowVerdict) -> None:
    """Keep the verdict as the one row of its window and version; the same verdict changes nothing."""
    now = verdict.quality.quality
    row: dict[str, Any] = {
        "key": verdict.key,
        "window_since": verdict.window.since,
        "window_until": verdict.window.until,
        "asof": verdict.asof,
        "model_version": verdict.version,
        **{name: getattr(verdict, name) for name in ("answers", "rows", "coverage", "flagged")},
        "arrived": verdict.quality.arrived,
        "quality_state": verdict.quality.state,
        **{name: float(getattr(now, name)) if now else None for name in ("base_rate", "log_loss", "brier")},
        **{
            f"{name}{suffix}": getattr(getattr(now, name), part) if now else None
            for name in ("auc", "skill", "calibration")
            for suffix, part in (("", "value"), ("_low", "low"), ("_high", "high"))
        },
        "drifted_importance": verdict.drift.drifted_importance,
        "score_psi": verdict.score_drift.psi if verdict.score_drift else None,
        **{
            f"estimated_auc{suffix}": getattr(verdict.estimate.auc, part) if verdict.estimate.auc else None
            for suffix, part in (("", "value"), ("_low", "low"), ("_high", "high"))
        },
        "alarms": json.dumps(verdict.alarms),
        "signals": json.dumps([asdict(signal) for signal in verdict.signals]),
        "breaches": json.dumps(verdict.breaches),
        "reasons": json.dumps(verdict.reasons),
        "columns": json.dumps([asdict(c) for c in (*verdict.drift.columns, *verdict.drift.calendar)]),
        "report": verdict.report,
    }
    kinds: Schema = dict.fromkeys(("window_since", "window_until", "asof"), INSTANT)
    told = ("alarms", "signals", "breaches", "reasons", "columns")
    texts = ("key", "model_version", "quality_state", *told, "report")
    kinds |= dict.fromkeys(texts, pl.String) | dict.fromkeys(("answers", "rows"), pl.Int64)
    frame = pl.DataFrame([row], schema={name: kinds.get(name, pl.Float64) for name in row})
    lake.replace_where(TABLE, frame, "key", verdict.key)


def read_known(lake: Lake) -> set[str]:
    """Return the keys of all verdicts recorded so far."""
    table = lake.read(TABLE)
    return set(table["key"]) if table.width else set()


def read_history(lake: Lake, version: str, period: Period, length: timedelta) -> list[WindowSigns]:
    """Return what that version's windows of the length inside the period said, oldest first."""
    table = lake.read(TABLE)
    if not table.width:
        return []
    inside = (pl.col("window_since") >= period.since) & (pl.col("window_until") <= period.until)
    long = pl.col("window_until") - pl.col("window_since") == length
    mine = table.filter(pl.col("model_version") == version, inside, long)
    return [
        WindowSigns(until, tuple(json.loads(breaches)), tuple(json.loads(reasons)))
        for until, breaches, reasons in mine.sort("window_until")
        .select("window_until", "breaches", "reasons")
        .iter_rows()
    ]


def read_estimates(lake: Lake, version: str, before: datetime) -> list[tuple[Interval, float]]:
    """Return the estimated AUC and the one that labels showed, of that version's windows judged before."""
    table, names = lake.read(TABLE), ("estimated_auc", "estimated_auc_low", "estimated_auc_high", "auc")
    if not {*names} <= set(table.columns):
        return []
    judged = table.filter(pl.col("model_version") == version, pl.col("asof") < before)
    told = judged.sort("window_until").select(names).drop_nulls()
    return [(Interval(*interval), realised) for *interval, realised in told.iter_rows()]


@dataclass(frozen=True, slots=True)
class Request:
    """A retrain that was asked for because of a window: the window's end, and when it was sent last."""

    until: datetime
    sent_at: datetime  # wall-clock time
    attempt: int


def read_requests(lake: Lake, version: str) -> dict[str, Request]:
    """Return the retrains already asked for because of that version, by the verdict's key."""
    table = lake.read(REQUESTS)
    if not table.width:
        return {}
    mine = table.filter(pl.col("model_version") == version)
    return {
        row["key"]: Request(
            row["window_until"],
            row.get("sent_at") or datetime.now(UTC),  # a record of before that was kept is not doubted
            json.loads(row["payload"]).get("attempt", 1),
        )
        for row in mine.iter_rows(named=True)
    }


def record_request(lake: Lake, key: str, version: str, until: datetime, payload: Mapping[str, Any]) -> None:
    """Keep that a retrain was asked for now, so that the same incident asks once."""
    row = {
        "key": key,
        "model_version": version,
        "window_until": until,
        "payload": json.dumps(payload),
        "sent_at": datetime.now(UTC),
    }
    schema: Schema = {
        "key": pl.String,
        "model_version": pl.String,
        "window_until": INSTANT,
        "payload": pl.String,
        "sent_at": INSTANT,
    }
    lake.replace_where(REQUESTS, pl.DataFrame([row], schema=schema), "key", key)


def describe(verdict: WindowVerdict, trigger: Trigger, folder: str) -> str:
    """Return the verdict as Markdown: numbers, reasons, columns, and where the report is."""
    said = "retrain" if trigger.retrain else "held" if trigger.causes else "keep"
    lines = [
        f"# Model v{verdict.version}, {verdict.window.since:%Y-%m-%d} to {verdict.window.until:%Y-%m-%d}",
        f"**Verdict: {said}**",
        *(f"- {reason}" for reason in dict.fromkeys((*trigger.reasons, *verdict.reasons))),
        "| signal | state | why |\n|---|---|---|\n"
        + "\n".join(f"| {s.name} | {s.state} | {s.reason} |" for s in verdict.signals),
        "| measure | window | reference |\n|---|---|---|\n" + "\n".join(_tell_measures(verdict)),
    ]
    if verdict.drift.columns:
        rows = sorted(verdict.drift.columns, key=lambda c: (-c.weight * c.effect, c.name))
        told = (f"| {c.name} | {c.psi:.3f} | {c.by_chance:.3f} | {c.level} | {c.weight:.1%} |" for c in rows)
        head = "| column | PSI | by chance | drift | weight |\n|---|---|---|---|---|\n"
        lines.append(head + "\n".join(told))
    lines.append(f"Report: `{folder}/{verdict.report}`" if verdict.report else _tell_no_report(verdict))
    return "\n\n".join(lines)


def _tell_no_report(verdict: WindowVerdict) -> str:
    return (
        "No report: it could not be drawn, see above." if verdict.drift.enough else "No report: too few rows."
    )


def _tell_measures(verdict: WindowVerdict) -> list[str]:
    now, then, drift = verdict.quality.quality, verdict.quality.reference, verdict.drift
    lines = [
        f"| answers | {verdict.answers} | |",
        f"| by this version | {verdict.rows} ({verdict.coverage:.1%}) | |",
        f"| flagged inputs | {verdict.flagged:.1%} | |",
        f"| labels arrived | {verdict.quality.arrived:.1%} | |",
        f"| importance drifted | {f'{drift.drifted_importance:.0%}' if drift.enough else 'unknown'} | |",
    ]
    if verdict.estimate.auc:
        lines.append(f"| estimated AUC | {verdict.estimate.auc} | |")
    if verdict.score_drift:
        lines.append(f"| PSI of the score | {verdict.score_drift.psi:.3f} | |")
    if now and then:
        lines += [
            f"| AUC | {now.auc} | {then.auc} |",
            f"| Brier skill | {now.skill} | {then.skill} |",
            f"| observed / expected | {now.calibration} | {then.calibration} |",
            f"| log loss | {now.log_loss:.4f} | {then.log_loss:.4f} |",
            f"| Brier | {now.brier:.4f} | {then.brier:.4f} |",
            f"| base rate | {now.base_rate:.1%} | {then.base_rate:.1%} |",
        ]
    return lines
