"""The values that journalled answers used, and the same values anew from the lake and from raw rows."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import polars as pl

from feature_repo.contract import FeatureTable, Period
from feature_repo.errors import NotEnoughData, PerennialError
from flows.features import compute_features
from flows.policy.skew import Column
from flows.project import Project
from flows.retention import check_answers
from flows.served import UNFLAGGED
from services.decoding import BadRequest
from services.journal import Prediction
from services.wire import Wire

STAMP = "event_timestamp"
INSTANT = pl.Datetime("us", "UTC")
WITHHELD = ("missing", "expired")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Answers whose request can be read.

    rows        their requests, with the request's own features; `decided_at` as journalled
    unreadable  answers whose journalled request is none that the service would take today
    """

    answers: tuple[Prediction, ...]
    rows: pl.DataFrame
    unreadable: int


def read_requests(project: Project, wire: Wire, answers: Sequence[Prediction]) -> Asked:
    """Make each answer's row again from its journalled request."""
    problem = project.problem
    kept, rows = [], []
    for answer in answers:
        try:
            (item,), _ = wire.requests.read(answer.request.encode())
        except BadRequest:
            continue
        kept.append(answer)
        rows.append({**wire.to_row(item), "received_at": answer.received_at, STAMP: answer.requested_at})
    if not rows:
        raise NotEnoughData(
            "skew probe",
            got=f"{len(answers)} answers in the period, none with a readable request",
            expected="one or more",
            next_step="Name a period in which the service answered.",
        )
    frame = pl.DataFrame(rows, schema_overrides=problem.request_fields, infer_schema_length=None)
    read = [
        pl.col(name).str.to_datetime("%+", time_unit="us", time_zone="UTC") for name in ("received_at", STAMP)
    ]
    # The instant that the journal states, not that of the request: the two must not differ unseen.
    frame = frame.with_columns(read).with_columns(pl.col(STAMP).alias(problem.decided_at)).drop(STAMP)
    frame = problem.add_request_features(frame)
    return Asked(tuple(kept), frame, len(answers) - len(kept))


def build_columns(project: Project, asked: Asked) -> list[Column]:
    """Return every feature's values: as journalled, by the point-in-time join, and computed anew."""
    problem, size = project.problem, len(asked.answers)
    told = [msgspec.json.decode(answer.features) for answer in asked.answers]
    withheld, inputs = _find_withheld(asked.answers), find_inputs(project, asked.answers, told)
    joined, computed = join_features(project, asked.rows), compute_anew(project, asked.rows)
    columns = []
    for feature in problem.features:
        name, number = feature.name, feature.kind == "number"
        kind = pl.Float64 if number else pl.String
        values, miscast = _read_values([row.get(name) for row in told], number)
        gone = [name not in row and name not in taken for row, taken in zip(told, inputs, strict=True)]
        absent = pl.Series(values=gone, dtype=pl.Boolean)
        mask = pl.Series(values=[False] * size, dtype=pl.Boolean)
        if name in withheld:
            mask = mask.scatter(withheld[name], True)
        given, anew = _clean(joined[name], kind), _clean(computed[name], kind)
        columns.append(Column(name, values, given, anew, mask, miscast, absent))
    return columns


def find_inputs(
    project: Project, answers: Sequence[Prediction], told: Sequence[Mapping[str, Any]]
) -> list[frozenset[str]]:
    """Return what each answer had to use: the inputs of its model's contract, or the problem's without one.

    Where the contract cannot be had: all that the answers of that model name.
    """
    inputs: dict[str | None, frozenset[str]] = {None: frozenset(project.problem.feature_names)}
    for version in {answer.model_version for answer in answers} - {None}:
        rows = (row for answer, row in zip(answers, told, strict=True) if answer.model_version == version)
        inputs[version] = _read_inputs(project, version) or frozenset().union(*rows)
    return [inputs[answer.model_version] for answer in answers]


def _read_inputs(project: Project, version: str | None) -> frozenset[str] | None:
    if not version or not version.isdecimal():
        return None
    folder = project.settings.home / "packages" / version
    try:
        if not folder.is_dir():
            check_answers(project.settings.mlflow_url)
            folder = project.package(int(version))
        contract = json.loads((folder / "contract.json").read_text())
    except (PerennialError, FileNotFoundError) as error:
        log.warning("inputs of version %s as its answers name them: %s", version, error)
        return None
    return frozenset(feature["name"] for feature in contract["features"])


def join_features(project: Project, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows' features by the point-in-time join of the feature store."""
    problem = project.problem
    lacking = [table.name for table in problem.feature_tables if not project.lake.has(table.name)]
    if lacking:
        raise NotEnoughData(
            "skew probe",
            got=f"no {', '.join(lacking)} in the lake",
            expected="every feature table",
            next_step="Run backfill first.",
        )
    made = {f.name for f in problem.features if f.source == "request"}
    keys = {key for table in problem.feature_tables for key in table.keys}
    given = [
        name
        for name in rows.columns
        if name in keys or name in problem.request_fields or name == problem.decided_at
    ]
    joined = project.store.read_historical(rows.select(given))
    # Inputs that the request states itself, such as a carrier, have no view to come from.
    copied = [name for name in made if name not in joined.columns]
    return joined.with_columns(rows[name] for name in copied)


def compute_anew(project: Project, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows' features computed again from raw rows, without the lake's features or Feast."""
    indexed = rows.with_row_index("_row").sort(project.problem.decided_at)
    for table in project.problem.feature_tables:
        frame = compute_features(project, table, reach(rows, project, table))
        indexed = find_newest(indexed, table, frame, project.problem.decided_at)
    return indexed.sort("_row").drop("_row")


def reach(rows: pl.DataFrame, project: Project, table: FeatureTable) -> Period:
    """Return the ticks that may be the newest usable one of some row."""
    decided = rows[project.problem.decided_at]
    first, last = decided.min(), decided.max()
    return Period(first - table.ttl - timedelta(hours=1), last)  # type: ignore[operator, arg-type]


def find_newest(
    rows: pl.DataFrame,
    table: FeatureTable,
    frame: pl.DataFrame,
    at: str,
    ttl: timedelta | None = None,
) -> pl.DataFrame:
    """Add to rows sorted by `at` the features of each one's newest tick at that instant that is fresh."""
    ticks = frame.select(*table.keys, STAMP, *table.features).sort(STAMP)
    return (
        rows.with_columns(pl.col(table.keys).cast(pl.String))
        .join_asof(
            ticks,
            left_on=at,
            right_on=STAMP,
            by=list(table.keys),
            strategy="backward",
            tolerance=ttl or table.ttl,
            check_sortedness=False,
        )
        .drop(STAMP, strict=False)
    )


def _find_withheld(answers: Sequence[Prediction]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        if answer.flags not in UNFLAGGED:
            for flag in json.loads(answer.flags):
                if flag["kind"] in WITHHELD:
                    found.setdefault(flag["feature"], []).append(number)
    return found


def _read_values(values: list[Any], number: bool) -> tuple[pl.Series, pl.Series]:
    """Return the values in the feature's own type, and where they were journalled as another."""
    fits = (float, int) if number else (str,)
    odd = [v is not None and (not isinstance(v, fits) or isinstance(v, bool)) for v in values]
    kept = [None if wrong else v for wrong, v in zip(odd, values, strict=True)] if any(odd) else values
    kept = [None if v is None else float(v) for v in kept] if number else kept
    told = pl.Series(values=kept, dtype=pl.Float64 if number else pl.String)
    return _clean(told, told.dtype), pl.Series(values=odd, dtype=pl.Boolean)


def _clean(values: pl.Series, kind: Any) -> pl.Series:
    told = values.cast(kind)
    return told.fill_nan(None) if told.dtype.is_float() else told


def take(column: Column, rows: pl.Series) -> Column:
    """Return a column at some rows, by their numbers."""
    parts = ("told", "joined", "computed", "withheld", "miscast", "absent")
    return Column(name=column.name, **{part: getattr(column, part).gather(rows) for part in parts})
