"""What becomes of each outcome that was told: one rule, whatever the order in which they came.

Outcomes of one thing are put in the order of the instant at which each was known; at one instant those
of the source come after those of clients, and then their content decides. The source's word holds
against a client's, a later word against an earlier one of the same side. When a thing became known is for
the source to say, if it says anything: what clients say of it before the newest prediction that the source
calls timely holds for nothing. Nothing else enters: neither when an outcome was delivered, nor in which
batch, nor how often the batch was run.
"""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

INSTANT = pl.Datetime("us", "UTC")
Schema = dict[str, pl.DataType | type[pl.DataType]]
SOURCE, API = "source", "api"
ACCEPTED, LATE, DUPLICATE, CONFLICT = "accepted", "late", "duplicate", "conflict"
ORPHAN, HINDSIGHT = "orphan", "hindsight"
# accepted   it is the label of a prediction
# late       so it is, but it came after the horizon
# duplicate  it says what the accepted one says
# conflict   it says otherwise, and gave way
# orphan     nobody asked about the thing, so far
# hindsight  all who asked did so when it was known already, by the source if it says anything
FATES = (ACCEPTED, LATE, DUPLICATE, CONFLICT, ORPHAN, HINDSIGHT)
TOLD_SCHEMA: Schema = {
    "entity": pl.String,
    "prediction_id": pl.String,
    "outcome": pl.Float64,
    "status": pl.String,
    "known_at": INSTANT,
    "via": pl.String,
}
ASKED_SCHEMA: Schema = {
    "prediction_id": pl.String,
    "entity": pl.String,
    "score": pl.Float64,
    "model_version": pl.String,
    "served_by": pl.String,
    "requested_at": INSTANT,
    "received_at": INSTANT,
}
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
# An outcome up to one horizon too late still finds its prediction by the thing's name alone; one that
# names the prediction finds it however late.
REACH = 2


@dataclass(frozen=True)
class Resolved:
    """Outcomes of whole things and what became of them.

    told    TOLD_SCHEMA and `thing`, `fate`: every row that was given, in a fixed order
    labels  LABEL_SCHEMA: a row for each instant at which the label of a thing became another one
    things  `thing`, `timely` and `hindsight`: how many predictions of it were asked for before and after
            it was known
    """

    told: pl.DataFrame
    labels: pl.DataFrame
    things: pl.DataFrame


def name_things(told: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Return outcomes with `thing`: the entity of the prediction named, else the entity told.

    One that names nothing known is a thing of its own, by the id that it names.
    """
    named = asked.select("prediction_id", asked="entity").unique("prediction_id")
    joined = told.join(named, on="prediction_id", how="left", maintain_order="none")
    unknown = pl.lit("prediction ") + pl.col("prediction_id")
    return joined.with_columns(
        entity=pl.coalesce("asked", "entity"), thing=pl.coalesce("asked", "entity", unknown)
    ).drop("asked")


def resolve(asked: pl.DataFrame, told: pl.DataFrame, horizon: timedelta) -> Resolved:
    """Say what became of outcomes (TOLD_SCHEMA and `thing`), given every outcome of each thing.

    `asked` (ASKED_SCHEMA) must hold each thing's predictions from REACH horizons before its first outcome
    on, and those that the outcomes name; rows of other things, and older ones, change nothing.
    """
    ordered = _put_in_order(told)
    pairs = _pair(asked, ordered, horizon)
    timely = pairs.filter(pl.col("requested_at") <= pl.col("first_known"))
    turns = _find_turns(ordered, timely)
    labels = _choose_predictions(turns, timely)
    final = turns.group_by("thing", maintain_order=True).last()
    counted = pairs.group_by("thing").agg(
        timely=(pl.col("requested_at") <= pl.col("first_known")).sum(), hindsight=pl.len()
    )
    counted = counted.with_columns(hindsight=pl.col("hindsight") - pl.col("timely")).sort("thing")
    fates = _tell_fates(ordered, final, labels, counted, horizon)
    written = labels.select(pl.col(name).cast(kind) for name, kind in LABEL_SCHEMA.items())
    return Resolved(fates, written.sort("known_at", "prediction_id", "entity"), counted)


def _put_in_order(told: pl.DataFrame) -> pl.DataFrame:
    # By every column: rows that are equal in all of them may change places and nothing is another.
    by = ("thing", "known_at", "via", "outcome", "status", "prediction_id")
    ordered = told.sort(*by, nulls_last=False).with_row_index("place")
    return ordered.with_columns(value=pl.col("outcome").fill_null(-1.0))


def _find_turns(ordered: pl.DataFrame, timely: pl.DataFrame) -> pl.DataFrame:
    """Return the rows at which what holds of a thing became another value, in order."""
    by_source = pl.col("via") == SOURCE
    heard = by_source.cast(pl.Int8).cum_max().over("thing") > 0
    newest = timely.group_by("thing").agg(newest=pl.col("requested_at").max())
    told = ordered.join(newest, on="thing", how="left", maintain_order="left")
    # Only a client's word can be that early, and only if the source has one too.
    early = (pl.col("known_at") < pl.col("newest")).fill_null(value=False)
    holding = told.filter((by_source | ~heard) & ~early).drop("newest")
    holding = holding.group_by("thing", "known_at", maintain_order=True).last()
    before = pl.col("value").shift().over("thing")
    return holding.filter(before.is_null() | (before != pl.col("value")))


def _pair(asked: pl.DataFrame, ordered: pl.DataFrame, horizon: timedelta) -> pl.DataFrame:
    """Return each thing's predictions within reach of its first outcome, and those that are named.

    `first_known` is the instant of the source's first word, of the clients' if it says nothing.
    """
    official = pl.col("known_at").filter(pl.col("via") == SOURCE).min()
    first = ordered.group_by("thing").agg(
        first_told=pl.col("known_at").min(), first_known=pl.coalesce(official, pl.col("known_at").min())
    )
    named = ordered.select(pl.col("prediction_id").drop_nulls().unique()).to_series().implode()
    pairs = first.join(asked.rename({"entity": "thing"}), on="thing")
    near = pl.col("requested_at") >= pl.col("first_told") - REACH * horizon
    return pairs.filter(near | pl.col("prediction_id").is_in(named)).drop("first_told")


def _choose_predictions(turns: pl.DataFrame, timely: pl.DataFrame) -> pl.DataFrame:
    """Return the turns that have a prediction, each with its own.

    It is the answer that the outcome names; else the latest asked for, of which the first one given was
    acted on.
    """
    pairs = turns.rename({"prediction_id": "meant"}).join(timely, on="thing")
    is_meant = (pl.col("meant") == pl.col("prediction_id")).fill_null(value=False)
    order = [pl.col("place"), is_meant, *map(pl.col, ("requested_at", "received_at", "prediction_id"))]
    ranked = pairs.sort(order, descending=[False, False, False, True, True])
    chosen = ranked.group_by("place", maintain_order=True).last()
    return chosen.with_columns(entity="thing")


def _tell_fates(
    ordered: pl.DataFrame,
    final: pl.DataFrame,
    labels: pl.DataFrame,
    counted: pl.DataFrame,
    horizon: timedelta,
) -> pl.DataFrame:
    last = final.select("thing", last="place", holds="value")
    waited = labels.select("place", late=pl.col("known_at") - pl.col("requested_at") > horizon)
    rows = ordered.join(last, on="thing", how="left").join(waited, on="place", how="left")
    rows = rows.join(counted.select("thing", "hindsight"), on="thing", how="left")
    is_last = pl.col("place") == pl.col("last")
    unlabelled = (
        pl.when(pl.col("hindsight").fill_null(0) > 0).then(pl.lit(HINDSIGHT)).otherwise(pl.lit(ORPHAN))
    )
    fate = (
        pl.when(~is_last & (pl.col("value") == pl.col("holds")))
        .then(pl.lit(DUPLICATE))
        .when(~is_last)
        .then(pl.lit(CONFLICT))
        .when(pl.col("late").is_null())
        .then(unlabelled)
        .when(pl.col("late"))
        .then(pl.lit(LATE))
        .otherwise(pl.lit(ACCEPTED))
    )
    return rows.sort("place").with_columns(fate=fate).select("thing", *TOLD_SCHEMA, "fate")
