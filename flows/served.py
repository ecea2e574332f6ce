"""What a champion served: its answers of a window with their exact features, beside what it was built on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.contract import Problem
from flows.label import as_instant
from flows.policy.bins import Column
from flows.policy.drift import DriftColumn

UNFLAGGED = ("", "[]", "{}", "null")


@dataclass(frozen=True)
class Champion:
    """What the monitor knows of the model that serves."""

    version: str
    contract: Mapping[str, Any]
    reference: pl.DataFrame

    @property
    def trained_until(self) -> datetime:
        """Logical time of the newest data that the version was fitted on."""
        instant = datetime.fromisoformat(self.contract["trained_until"])
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def read_champion(package: Path, version: str) -> Champion:
    """Read the parts of a model package that the monitor compares with."""
    contract = json.loads((package / "contract.json").read_text())
    return Champion(version, contract, pl.read_parquet(package / "reference.parquet"))


def pick_served(answers: pl.DataFrame, version: str) -> pl.DataFrame:
    """Return the version's answers as champion, one a thing, the latest: retries must not weigh more."""
    if not len(answers):
        return answers
    mine = as_instant(
        answers.filter(served_by="champion", model_version=version), "requested_at", "received_at"
    )
    ordered = mine.sort("entity", "requested_at", "received_at", "prediction_id")
    return ordered.unique("entity", keep="last", maintain_order=True)


def parse_features(served: pl.DataFrame, contract: Mapping[str, Any]) -> pl.DataFrame:
    """Return prediction_id, score and each feature of the contract, as journalled; absent ones null."""
    kinds = {f["name"]: pl.Float64 if f["kind"] == "number" else pl.String for f in contract["features"]}
    known = {"prediction_id": pl.String, "score": pl.Float64}
    if not len(served):
        return pl.DataFrame(schema={**known, **kinds})
    rows = [_name_values(json.loads(text), list(kinds)) for text in served["features"]]
    parsed = pl.DataFrame(rows, schema=kinds, strict=False)
    return pl.concat([served.select(pl.col(n).cast(k) for n, k in known.items()), parsed], how="horizontal")


def list_columns(contract: Mapping[str, Any], problem: Problem) -> list[DriftColumn]:
    """Return the columns to watch: not the calendar's, which drift by construction."""
    return [
        DriftColumn(feature["name"], feature["kind"], feature.get("importance"), _read_range(feature))
        for feature in contract["features"]
        if feature["name"] not in problem.calendar
    ]


def _read_range(feature: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = feature.get("min"), feature.get("max")
    return None if low is None or high is None else (low, high)


def list_calendar(champion: Champion, problem: Problem) -> list[DriftColumn]:
    """Return the calendar's columns that the model takes and its reference holds: the strata."""
    taken = {feature["name"] for feature in champion.contract["features"]}
    held = problem.calendar & taken & set(champion.reference.columns)
    return [DriftColumn(name, "number") for name in sorted(held)]


def to_arrays(frame: pl.DataFrame, columns: list[DriftColumn]) -> dict[str, Column]:
    """Return the columns as arrays: numbers with NaN for null, categories as text or None."""
    numbers = {c.name: frame[c.name].cast(pl.Float64).to_numpy() for c in columns if c.kind == "number"}
    texts = {c.name: frame[c.name].cast(pl.String) for c in columns if c.kind != "number"}
    return {**numbers, **{name: series.to_numpy().astype(object) for name, series in texts.items()}}


def share_flagged(served: pl.DataFrame) -> float:
    """Return the share of answers whose input was missing, unseen, out of range or expired."""
    if not len(served):
        return 0.0
    return 1 - int(served["flags"].fill_null("").is_in(UNFLAGGED).sum()) / len(served)


def _name_values(values: Any, names: list[str]) -> dict[str, Any]:
    named = values if isinstance(values, dict) else dict(zip(names, values, strict=True))
    return {name: named.get(name) for name in names}
