"""Labels: outcomes joined to journalled predictions as they become known.

One label a thing predicted: the latest prediction asked for before its outcome was known counts, and
of conflicting outcomes the one known last. What did not fit is counted, never dropped silently.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Protocol

import polars as pl
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from feature_repo.contract import Period, Problem
from feature_repo.lake import Lake

TABLE = "labels"
INSTANT = pl.Datetime("us", "UTC")
Schema = dict[str, pl.DataType | type[pl.DataType]]
LABEL_SCHEMA: Schema = {
    "prediction_id": pl.String,
    "entity": pl.String,
    "requested_at": INSTANT,
    "known_at": INSTANT,
    "score": pl.Float64,
    "outcome": pl.Float64,
    "status": pl.String,
    "model_version": pl.String,
    "served_by": pl.String,
}
OUTCOME_SCHEMA: Schema = {
    "entity": pl.String,
    "prediction_id": pl.String,
    "outcome": pl.Float64,
    "status": pl.String,
    "known_at": INSTANT,
}
# An outcome up to one horizon too late still finds its prediction, and is counted as late.
REACH = 2


class Predictions(Protocol):
    """What labels need of the journal."""

    def read_predictions(self, period: Period) -> pl.DataFrame:
        """Predictions asked for in the period."""

    def list_replayed(self) -> list[str]:
        """Ids of predictions that came of sending dead letters again: nobody acted on these."""

    def read_outcomes(self, period: Period) -> pl.DataFrame:
        """Outcomes sent back to the service, observed in the period."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What became of a period's outcomes.

    excluded    labelled with no outcome: it will never come (say, a cancelled flight)
    superseded  predictions that a later one of the same thing replaced
    hindsight   predictions asked for when the outcome was already known: never scored
    late        labels that came after the horizon
    duplicates  outcomes told again; conflicts: told differently, the later one wins
    orphans     outcomes of things that nobody asked about
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


@dataclass(frozen=True)
class LabelResult:
    """Labels as LABEL_SCHEMA says, in a fixed order, and what did not become one."""

    labels: pl.DataFrame
    counts: LabelCounts


def join_outcomes(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, horizon: timedelta, known: Period | None = None
) -> LabelResult:
    """Join outcomes (OUTCOME_SCHEMA) to predictions, by prediction id or entity, in any order of rows.

    With `known` only outcomes that became known in it are labelled and counted; earlier ones serve to
    tell a first outcome from one told again.
    """
    asked = _as_predictions(predictions)
    told = _rank_outcomes(asked, outcomes)
    if known is not None:
        told = told.filter(pl.col("known_at").is_between(known.since, known.until, closed="left"))
    final = told.filter(pl.col("role") != "duplicate").group_by("entity", maintain_order=True).last()
    pairs = final.rename({"prediction_id": "meant"}).join(asked, on="entity")
    timely = pairs.filter(pl.col("requested_at") <= pl.col("known_at"))
    # The answer that the outcome names; else the latest asked for, of which the first one given was acted on.
    is_meant = (pl.col("meant") == pl.col("prediction_id")).fill_null(value=False)
    order = [pl.col("entity"), is_meant, *map(pl.col, ("requested_at", "received_at", "prediction_id"))]
    ranked = timely.sort(order, descending=[False, False, False, True, True])
    chosen = ranked.group_by("entity", maintain_order=True).last()
    counts = LabelCounts(
        outcomes=len(told),
        labelled=len(chosen),
        excluded=chosen["outcome"].null_count(),
        superseded=len(timely) - len(chosen),
        hindsight=len(pairs) - len(timely),
        late=chosen.filter(pl.col("known_at") - pl.col("requested_at") > horizon).height,
        duplicates=told.filter(role="duplicate").height,
        conflicts=told.filter(role="conflict").height,
        orphans=len(final.join(asked, on="entity", how="anti")),
    )
    labels = chosen.select(pl.col(name).cast(kind) for name, kind in LABEL_SCHEMA.items())
    return LabelResult(labels.sort("known_at", "prediction_id"), counts)


def label_period(lake: Lake, journal: Predictions, problem: Problem, period: Period) -> LabelCounts:
    """Write the labels that became known in the period; running it again changes nothing."""
    reach = Period(period.since - REACH * problem.horizon, period.until)
    outcomes = pl.concat([read_outcomes(lake, problem, reach), _read_feedback(journal, reach)])
    given = journal.read_predictions(reach)
    acted_on = given.filter(~pl.col("prediction_id").is_in(journal.list_replayed())) if given.width else given
    result = join_outcomes(acted_on, outcomes, problem.horizon, period)
    lake.replace(TABLE, result.labels, period, by="known_at")
    return result.counts


def read_labels(lake: Lake, requested: Period, known_before: datetime) -> pl.DataFrame:
    """Return the labels of predictions asked for in the period, as they stood at `known_before`."""
    labels = lake.read(TABLE, Period(requested.since, max(requested.since, known_before)), by="known_at")
    if not labels.width:
        return pl.DataFrame(schema=LABEL_SCHEMA)
    asked = pl.col("requested_at").is_between(requested.since, requested.until, closed="left")
    ordered = labels.filter(asked).sort("entity", "known_at", "prediction_id")
    return ordered.unique("entity", keep="last", maintain_order=True)


def read_outcomes(lake: Lake, problem: Problem, period: Period) -> pl.DataFrame:
    """Return the source's outcomes known in the period, as OUTCOME_SCHEMA says."""
    frames = {
        table.name: lake.read(table.name, period, by=table.known_at)
        if lake.has(table.name)
        else pl.DataFrame(schema=table.schema)
        for table in problem.raw
    }
    told = problem.build_outcomes(frames).rename({problem.entity: "entity", problem.target: "outcome"})
    told = told.with_columns(prediction_id=pl.lit(None, pl.String))
    return told.select(pl.col(name).cast(kind) for name, kind in OUTCOME_SCHEMA.items())


def as_instant(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Return the frame with ISO 8601 text in those columns read as instants in UTC."""
    text = [c for c in columns if frame.schema[c] == pl.String]
    read = frame.with_columns(pl.col(text).str.to_datetime("%+", time_unit="us", time_zone="UTC"))
    return read.with_columns(pl.col(columns).cast(INSTANT))


def _read_feedback(journal: Predictions, period: Period) -> pl.DataFrame:
    told = journal.read_outcomes(period)
    if not len(told):
        return pl.DataFrame(schema=OUTCOME_SCHEMA)
    told = as_instant(told, "observed_at").rename({"observed_at": "known_at"})
    return told.select(pl.col(name).cast(kind) for name, kind in OUTCOME_SCHEMA.items())


def _as_predictions(predictions: pl.DataFrame) -> pl.DataFrame:
    kinds = {n: LABEL_SCHEMA[n] for n in ("prediction_id", "entity", "score", "model_version", "served_by")}
    if not predictions.width:
        return pl.DataFrame(schema={**kinds, "requested_at": INSTANT, "received_at": INSTANT})
    read = as_instant(predictions, "requested_at", "received_at")
    named = (pl.col(name).cast(kind) for name, kind in kinds.items())
    return read.select(*named, "requested_at", "received_at")


def _rank_outcomes(asked: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    # Sorted by every column, so that the order of arrival in the frame cannot matter.
    named = asked.select("prediction_id", asked="entity").unique("prediction_id")
    told = outcomes.join(named, on="prediction_id", how="left", maintain_order="none")
    told = told.with_columns(entity=pl.coalesce("asked", "entity")).drop("asked")
    told = told.sort("entity", "known_at", "outcome", "status", "prediction_id", nulls_last=False)
    value = pl.col("outcome").fill_null(-1.0)
    before = value.shift().over("entity")
    role = pl.when(before.is_null()).then(pl.lit("first")).when(before != value).then(pl.lit("conflict"))
    return told.with_columns(role=role.otherwise(pl.lit("duplicate")))


@task(name="label", cache_policy=NO_CACHE)
def label(lake: Lake, journal: Predictions, problem: Problem, period: Period) -> dict[str, int]:
    """Label a period as a step of a larger flow."""
    return asdict(label_period(lake, journal, problem, period))


@flow(name="label", log_prints=True)
def label_flow(since: datetime, until: datetime) -> dict[str, int]:
    """Join the outcomes that became known from `since` to `until` to the journal's predictions."""
    from flows.project import open_project

    project = open_project()
    counts = label_period(project.lake, project.journal, project.problem, Period(since, until))
    print(f"labels known {since:%Y-%m-%d} to {until:%Y-%m-%d}: {counts}")
    return asdict(counts)
