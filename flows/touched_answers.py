"""Which journalled answers used certain ticks of feature tables, or came from certain model versions.

Written for journals of millions: read in chunks, matched by as-of joins.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from feature_repo.contract import FeatureTable, Period
from feature_repo.materializations import Materializations
from flows.label import as_instant
from flows.project import Project
from flows.trace import PREDICTIONS
from services.journal import BUSY_SECONDS, format_instant

STAMP = "event_timestamp"
INSTANT = pl.Datetime("us", "UTC")
ANSWER = {"prediction_id": pl.String(), "requested_at": INSTANT, "model_version": pl.String()}
CHUNK = 50_000  # answers read at a time


@dataclass(frozen=True)
class TouchedAnswers:
    """Answers of one model version; `ids` only if they were asked for."""

    model_version: str | None
    answers: int
    first: datetime | None
    last: datetime | None
    ids: tuple[str, ...] = ()


def find_answers(project: Project, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return id, instant and model version of the answers that used a touched tick.

    `frames`: by feature table, its keys and ticks, and whether each was `touched`. An answer used the newest
    tick at its decision that was online when it was given, unless it was too old.
    """
    touched = {name: frame for name, frame in frames.items() if frame["touched"].any()}
    found = [pl.DataFrame(schema=ANSWER)]
    if touched:
        tables = [project.problem.table(name) for name in touched]
        spans = [_span(table, touched[table.name]) for table in tables]
        asked = Period(min(span.since for span in spans), max(span.until for span in spans))
        keys = sorted({key for table in tables for key in table.keys})
        online = _read_online_until(project)
        for read in _read_answers(project, asked, keys):
            answers = _limit_to_online(read, online)
            used = pl.DataFrame([_uses(answers, table, touched[table.name]) for table in tables])
            found.append(answers.filter(used.select(pl.any_horizontal(pl.all())).to_series()).select(*ANSWER))
    return pl.concat(found)


def count_answers(project: Project, versions: Sequence[str], ids: bool) -> tuple[TouchedAnswers, ...]:
    """Count the answers that these model versions gave, as a model or as its rule."""
    path = project.settings.home / PREDICTIONS
    if not versions or not path.exists():
        return ()
    marks = ", ".join("?" * len(versions))
    told = "count(*), min(requested_at), max(requested_at)"
    query = f"SELECT model_version, {told} FROM predictions WHERE model_version IN ({marks}) GROUP BY 1"  # noqa: S608
    listed = f"SELECT model_version, prediction_id FROM predictions WHERE model_version IN ({marks})"  # noqa: S608
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        counted = connection.execute(query, versions).fetchall()
        named: dict[str, list[str]] = {}
        for version, name in connection.execute(listed, versions) if ids else ():
            named.setdefault(version, []).append(name)
    at = datetime.fromisoformat
    return tuple(
        TouchedAnswers(version, count, at(first), at(last), tuple(named.get(version, ())))
        for version, count, first, last in counted
    )


def group_answers(answers: pl.DataFrame, ids: bool) -> tuple[TouchedAnswers, ...]:
    """Count answers by model version."""
    at = pl.col("requested_at")
    grouped = answers.group_by("model_version").agg(
        "prediction_id", n=pl.len(), first=at.min(), last=at.max()
    )
    return tuple(
        TouchedAnswers(row["model_version"], row["n"], row["first"], row["last"], tuple(row["prediction_id"]))
        if ids
        else TouchedAnswers(row["model_version"], row["n"], row["first"], row["last"])
        for row in grouped.sort("model_version").iter_rows(named=True)
    )


def _span(table: FeatureTable, frame: pl.DataFrame) -> Period:
    first, last = frame.filter("touched").select(first=pl.col(STAMP).min(), last=pl.col(STAMP).max()).row(0)
    return Period(first, last + table.ttl)


def _uses(answers: pl.DataFrame, table: FeatureTable, frame: pl.DataFrame) -> pl.Series:
    """Return for each answer, sorted by `used_at`, whether the tick that it used was touched."""
    joined = answers.join_asof(
        frame.select(*table.keys, "touched", _tick=STAMP, used_at=STAMP),
        on="used_at",
        by=list(table.keys),
        strategy="backward",
        check_sortedness=False,
    )
    fresh = pl.col("requested_at") - pl.col("_tick") <= table.ttl
    return joined.select((pl.col("touched") & fresh).fill_null(value=False).alias(table.name)).to_series()


def _read_online_until(project: Project) -> pl.DataFrame:
    """Return up to which tick the online store was filled, by the wall-clock time of each write's end."""
    log = Materializations(project.settings.home / "feast").read()
    rows = [(write.ended_at, write.until) for write in log if write.ended_at]
    frame = pl.DataFrame(rows, schema={"received_at": INSTANT, "online_until": INSTANT}, orient="row")
    return frame.sort("received_at").with_columns(pl.col("online_until").cum_max())


def _limit_to_online(answers: pl.DataFrame, online: pl.DataFrame) -> pl.DataFrame:
    """Add `used_at`, up to when an answer can have used ticks, and sort by it.

    The instant of its decision, or of what was online when it was given, if ingest was behind. Where no log
    tells, the decision.
    """
    known = answers.sort("received_at").join_asof(online, on="received_at", strategy="backward")
    return known.with_columns(used_at=pl.min_horizontal("requested_at", "online_until")).sort("used_at")


def _read_answers(project: Project, asked: Period, keys: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield answers asked for in the period, both ends included, with their features' keys as text."""
    path = project.settings.home / PREDICTIONS
    if not path.exists():
        return
    # The request mostly names the keys, and is a tenth as long as the features; those know the rest.
    one = "CAST(coalesce(json_extract(request, '$.\"{0}\"'), json_extract(features, '$.\"{0}\"')) AS TEXT)"
    columns = ("prediction_id", "requested_at", "received_at", "model_version")
    names = ", ".join([*columns, *(one.format(key) for key in keys)])
    within = "requested_at >= ? AND requested_at <= ?"
    query = f"SELECT {names} FROM predictions WHERE {within} ORDER BY requested_at"  # noqa: S608
    bounds = (format_instant(asked.since), format_instant(asked.until))
    schema = dict.fromkeys((*columns, *keys), pl.String)
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        cursor = connection.execute(query, bounds)
        while rows := cursor.fetchmany(CHUNK):
            read = pl.DataFrame(rows, schema=schema, orient="row")
            yield as_instant(read, "requested_at", "received_at")
