"""Labels: outcomes joined to journalled predictions as they become known.

One label a thing predicted: the latest prediction asked for before its outcome was known counts. What
became of every outcome is kept (outcomes.py has the rule), and a run looks again at all things that the
journal or the source told something new about, however long ago: the order of delivery does not matter.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Period, Problem
from feature_repo.lake import Lake
from flows.outcomes import (
    API,
    ASKED_SCHEMA,
    CONFLICT,
    DUPLICATE,
    INSTANT,
    LABEL_SCHEMA,
    LATE,
    ORPHAN,
    REACH,
    SOURCE,
    TOLD_SCHEMA,
    Resolved,
    name_things,
    resolve,
)
from flows.outcomes_kept import (
    LABELS,
    Looked,
    read_kept,
    read_looked,
    write_looked,
    write_resolved,
)
from services.journal_records import Mark, News, Prediction

TABLE = LABELS


class Predictions(Protocol):
    """What labels need of the journal."""

    def read_predictions(self, period: Period) -> pl.DataFrame:
        """Predictions asked for in the period."""

    def find_prediction(self, prediction_id: str) -> Prediction | None:
        """One prediction, or None."""

    def list_replayed(self) -> list[str]:
        """Ids of predictions that came of sending dead letters again: nobody acted on these."""

    def read_outcomes(self, period: Period) -> pl.DataFrame:
        """Outcomes sent back to the service, observed in the period."""

    def find_news(self, after: Mark) -> News:
        """What was written after a mark."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What became of the outcomes known in a period, as it stands now.

    labelled    the label of a prediction; of these late came after the horizon
    excluded    labelled with no outcome: it will never come (say, a cancelled flight)
    superseded  predictions that a later one of the same thing replaced
    hindsight   predictions asked for when the outcome was already known: never scored
    duplicates  outcomes told again; conflicts: told differently, and overruled
    orphans     outcomes of things that nobody asked about in time
    """

    outcomes: int = 0
    labelled: int = 0
    excluded: int = 0
    superseded: int = 0
    hindsight: int = 0
    late: int = 0
    duplicates: int = 0
    conflicts: int = 0
    orphans: int = 0


def label_period(lake: Lake, journal: Predictions, problem: Problem, period: Period) -> LabelCounts:
    """Label what became known in the period, and what the journal tells anew of any time before.

    Running it again changes nothing. A kill leaves work that the next run does.
    """
    looked = read_looked(lake)
    news = journal.find_news(looked.mark)  # before anything is read: what comes meanwhile is news again
    stretch = _stretch(period, looked, news)
    told = pl.concat([read_outcomes(lake, problem, stretch), _read_feedback(journal, stretch)])
    kept = read_kept(lake)
    rows, before, named = _gather(journal, told, kept, stretch)
    # Up to where labels have come, though the period is an older one: who asked later is hindsight.
    reach = Period(stretch.since, max(stretch.until, looked.until))
    resolved = resolve(_read_asked(journal, rows, reach, problem.horizon, named), rows, problem.horizon)
    write_resolved(lake, resolved, before, [*before["thing"].unique(), *rows["thing"].unique()])
    write_looked(lake, Looked(news.mark, max(looked.until, stretch.until)))
    return count_labels(resolved, period)


def count_labels(resolved: Resolved, period: Period) -> LabelCounts:
    """Count the outcomes that became known in the period."""
    known = pl.col("known_at").is_between(period.since, period.until, closed="left")
    told = resolved.told.filter(known)
    fates = dict(told.group_by("fate").len().iter_rows())
    # What is neither told again nor overruled stands for its thing.
    standing = told.filter(~pl.col("fate").is_in([DUPLICATE, CONFLICT]))
    labelled = standing.filter(pl.col("fate").is_in(["accepted", LATE]))
    things = resolved.things.join(standing.select("thing"), on="thing", how="semi")
    return LabelCounts(
        outcomes=len(told),
        labelled=len(labelled),
        excluded=labelled["outcome"].null_count(),
        superseded=int(things["timely"].clip(lower_bound=1).sum()) - len(things),
        hindsight=int(things["hindsight"].sum()),
        late=fates.get(LATE, 0),
        duplicates=fates.get(DUPLICATE, 0),
        conflicts=fates.get(CONFLICT, 0),
        orphans=fates.get(ORPHAN, 0),
    )


def read_labels(lake: Lake, requested: Period, known_before: datetime) -> pl.DataFrame:
    """Return the labels of predictions asked for in the period, as they stood at `known_before`."""
    labels = lake.read(TABLE, Period(requested.since, max(requested.since, known_before)), by="known_at")
    if not labels.width:
        return pl.DataFrame(schema=LABEL_SCHEMA)
    ordered = labels.sort("entity", "known_at", "prediction_id")
    latest = ordered.unique("entity", keep="last", maintain_order=True)
    return latest.filter(pl.col("requested_at").is_between(requested.since, requested.until, closed="left"))


def read_outcomes(lake: Lake, problem: Problem, period: Period) -> pl.DataFrame:
    """Return the source's outcomes known in the period, as TOLD_SCHEMA says."""
    frames = {
        table.name: lake.read(table.name, period, by=table.known_at)
        if lake.has(table.name)
        else pl.DataFrame(schema=table.schema)
        for table in problem.raw
    }
    told = problem.build_outcomes(frames).rename({problem.entity: "entity", problem.target: "outcome"})
    told = told.with_columns(prediction_id=pl.lit(None, pl.String), via=pl.lit(SOURCE))
    return told.select(pl.col(name).cast(kind) for name, kind in TOLD_SCHEMA.items())


def as_instant(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Return the frame with ISO 8601 text in those columns read as instants in UTC."""
    text = [c for c in columns if frame.schema[c] == pl.String]
    read = frame.with_columns(pl.col(text).str.to_datetime("%+", time_unit="us", time_zone="UTC"))
    return read.with_columns(pl.col(columns).cast(INSTANT))


def as_asked(predictions: pl.DataFrame) -> pl.DataFrame:
    """Return journalled predictions as ASKED_SCHEMA says."""
    if not predictions.width:
        return pl.DataFrame(schema=ASKED_SCHEMA)
    read = as_instant(predictions, "requested_at", "received_at")
    return read.select(pl.col(name).cast(kind) for name, kind in ASKED_SCHEMA.items())


def _stretch(period: Period, looked: Looked, news: News) -> Period:
    """Return the period, grown to what the journal's news are about."""
    if news.since is None:
        return period
    since = datetime.fromisoformat(news.since)
    return Period(min(period.since, since), max(period.until, looked.until))


def _gather(
    journal: Predictions, told: pl.DataFrame, kept: pl.DataFrame, stretch: Period
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return every outcome of the things that may have changed, what was kept of them, and what they name."""
    inside = pl.col("known_at").is_between(stretch.since, stretch.until, closed="left")
    asked = as_asked(journal.read_predictions(stretch))
    meant = pl.col("prediction_id").is_in(asked["prediction_id"].implode())
    touched = {*kept.filter(inside | meant | pl.col("thing").is_in(asked["entity"].implode()))["thing"]}
    while True:
        others = kept.filter(~inside & pl.col("thing").is_in(list(touched)))
        rows = pl.concat([told, others.select(list(TOLD_SCHEMA))])
        named = pl.concat([asked, _look_up(journal, rows, asked)])
        rows = name_things(rows, named)
        more = {*rows["thing"]} - touched
        touched |= more
        if not more:
            return rows, kept.filter(pl.col("thing").is_in(list(touched))), named


def _look_up(journal: Predictions, rows: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Return the predictions that outcomes name and that are not at hand."""
    wanted = rows.select(pl.col("prediction_id").drop_nulls().unique())
    lacking = wanted.join(asked, on="prediction_id", how="anti")["prediction_id"]
    found = [one for one in map(journal.find_prediction, lacking.sort()) if one is not None]
    return as_asked(pl.DataFrame([_to_row(one) for one in found]))


def _to_row(prediction: Any) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in ASKED_SCHEMA}


def _read_asked(
    journal: Predictions, rows: pl.DataFrame, stretch: Period, horizon: timedelta, named: pl.DataFrame
) -> pl.DataFrame:
    """Return the predictions that outcomes may be the label of: nobody acted on those sent again."""
    first = rows["known_at"].min()
    since = first - REACH * horizon if isinstance(first, datetime) else stretch.since
    near = as_asked(journal.read_predictions(Period(since, max(since, stretch.until))))
    asked = pl.concat([near, named]).unique("prediction_id")
    return asked.filter(~pl.col("prediction_id").is_in(journal.list_replayed()))


def _read_feedback(journal: Predictions, period: Period) -> pl.DataFrame:
    told = journal.read_outcomes(period)
    if not len(told):
        return pl.DataFrame(schema=TOLD_SCHEMA)
    told = as_instant(told, "observed_at").rename({"observed_at": "known_at"}).with_columns(via=pl.lit(API))
    return told.select(pl.col(name).cast(kind) for name, kind in TOLD_SCHEMA.items())


@task(name="label", cache_policy=NO_CACHE)
def label(lake: Lake, journal: Predictions, problem: Problem, period: Period) -> dict[str, int]:
    """Label a period as a step of a larger flow."""
    return asdict(label_period(lake, journal, problem, period))
