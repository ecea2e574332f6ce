"""A new feature table is added over the past alone, and what stands is not computed again."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from feature_repo.contract import Delivery, FeatureTable, Period
from feature_repo.errors import NotEnoughData
from feature_repo.lake import content_hash
from flows.corrections import restate_period
from flows.feature_backfill import backfill_table
from flows.features import build_features, materialize_period
from flows.ingest import ingest_period
from flows.project import Project
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
Make = Callable[..., Project]
Day = Callable[[int], Period]


def shop_amounts(raw, ticks) -> pl.DataFrame:
    """Return, per shop and tick, the mean amount of the day before."""
    frames = []
    for tick in ticks:
        known = pl.col("known_at").is_between(tick - timedelta(days=1), tick, closed="left")
        mean = (
            raw["orders"].filter(known).group_by("shop").agg(shop_amount_1d=pl.col("amount").mean().round(6))
        )
        frames.append(mean.with_columns(event_timestamp=pl.lit(tick).cast(toy.INSTANT)))
    return pl.concat(frames)


AMOUNTS = dataclasses.replace(
    toy.SHOP_DAY,
    name="shop_amount",
    features={"shop_amount_1d": pl.Float64},
    reads=("orders",),
    compute=shop_amounts,
)


def with_tables(project: Project, *tables: FeatureTable) -> Project:
    return dataclasses.replace(project, problem=dataclasses.replace(project.problem, feature_tables=tables))


@dataclasses.dataclass(frozen=True)
class Counting(FeatureTable):
    """A table that notes each tick that is computed; its definition is that of the plain one."""

    seen: list = dataclasses.field(default_factory=list)

    def compute_rows(self, raw, ticks):
        self.seen.extend(ticks)
        return super().compute_rows(raw, ticks)


def counting(table: FeatureTable, ticks: list) -> FeatureTable:
    """Return the table with a note of each tick that is computed."""
    told = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    return Counting(**told, seen=ticks)


@pytest.fixture
def landed(make_toy: Make, toy_day: Day) -> Project:
    """Return five landed days with the first table's features."""
    project = make_toy(days=8)
    for n in range(5):
        ingest_period(project, toy_day(n))
        build_features(project, toy_day(n))
    return project


def test_a_new_table_is_added_over_the_past_without_touching_the_others(
    landed: Project, make_toy: Make, toy_day: Day
) -> None:
    """The first table's version stays, and the rows are those of building both from the start."""
    version, both = landed.lake.version("shop_day"), with_tables(landed, toy.SHOP_DAY, AMOUNTS)
    done = backfill_table(both, "shop_amount")
    assert landed.lake.version("shop_day") == version
    assert (done.version, done.online) == (0, len(toy.SHOPS))
    together = with_tables(make_toy("together", days=8), toy.SHOP_DAY, AMOUNTS)
    for n in range(5):
        ingest_period(together, toy_day(n))
        build_features(together, toy_day(n))
    for table in ("shop_day", "shop_amount"):
        assert content_hash(landed.lake.read(table)) == content_hash(together.lake.read(table))
    assert backfill_table(both, "shop_amount").version == 0


def test_a_part_of_the_past_can_be_computed(landed: Project, toy_day: Day) -> None:
    """Two days bound what is computed; beyond what has landed there is nothing to compute."""
    both = with_tables(landed, toy.SHOP_DAY, AMOUNTS)
    days = [toy_day(n).since.date() for n in range(8)]
    backfill_table(both, "shop_amount", days[1], days[3])
    stamps = landed.lake.read("shop_amount")["event_timestamp"]
    assert (stamps.min(), stamps.max()) == (toy_day(1).since + timedelta(hours=1), toy_day(2).until)
    with pytest.raises(NotEnoughData, match="landed until"):
        backfill_table(both, "shop_amount", days[6])
    with pytest.raises(NotEnoughData, match="one of shop_day"):
        backfill_table(landed, "shop_week")


def test_rows_put_online_are_counted_where_others_are_online_already(
    landed: Project, make_toy: Make, toy_day: Day
) -> None:
    """A store that serves fills what is empty when it is opened; the new rows are counted all the same."""
    whole = Period(toy_day(0).since, toy_day(4).until)
    materialize_period(landed, build_features(landed, whole), whole)
    done = backfill_table(with_tables(landed, toy.SHOP_DAY, AMOUNTS), "shop_amount")
    assert done.online == len(toy.SHOPS)


def test_days_the_wrong_way_round_are_said_to_be(landed: Project, toy_day: Day) -> None:
    """Nobody is sent to land data that is there."""
    days = [toy_day(n).since.date() for n in range(4)]
    for since, until in ((days[3], days[1]), (days[2], days[2])):
        with pytest.raises(NotEnoughData, match="a day after it"):
            backfill_table(landed, "shop_day", since, until)


def test_what_stands_is_not_computed_again(landed: Project, toy_day: Day) -> None:
    """A day of the same rows and the same definition is read back; a new day is computed."""
    ticks: list = []
    project = with_tables(landed, counting(toy.SHOP_DAY, ticks))
    frames = build_features(project, toy_day(4))
    assert ticks == []
    assert content_hash(frames["shop_day"]) == content_hash(
        landed.lake.read("shop_day", toy_day(4), "event_timestamp", closed="right")
    )
    ingest_period(project, toy_day(5))
    whole = Period(toy_day(4).since, toy_day(5).until)
    frames = build_features(project, whole)
    assert len(ticks) == 24
    assert min(ticks) > toy_day(5).since
    assert frames["shop_day"]["event_timestamp"].min() == toy_day(4).since + timedelta(hours=1)


def test_what_a_correction_or_another_definition_touches_is_computed_again(
    landed: Project, toy_day: Day
) -> None:
    """A restated batch makes the ticks stale that may have read it; an edit makes all of them stale."""
    ticks: list = []

    def fetch(name: str, period: Period) -> Delivery:
        told = landed.fetch(name, period)
        flipped = (1 - pl.col("returned")).cast(pl.Int8)
        return (
            dataclasses.replace(told, frame=told.frame.with_columns(returned=flipped))
            if name == "returns"
            else told
        )

    project = dataclasses.replace(with_tables(landed, counting(toy.SHOP_DAY, ticks)), fetch=fetch)
    restate_period(project, toy_day(4))
    build_features(project, toy_day(3))
    assert ticks == []
    build_features(project, toy_day(4))
    assert len(ticks) == 24
    longer = dataclasses.replace(counting(toy.SHOP_DAY, ticks), lookback=timedelta(days=2))
    build_features(with_tables(landed, longer), toy_day(2))
    assert len(ticks) == 48


def test_a_write_by_somebody_else_makes_the_past_unknown(landed: Project, toy_day: Day) -> None:
    """Where a commit does not say what it is, ticks before it are computed again."""
    ticks: list = []
    rows = landed.lake.read("shop_day", toy_day(4), "event_timestamp", closed="right")
    changed = rows.with_columns(shop_returned_1d=pl.lit(0.5))
    landed.lake.replace("shop_day", changed, toy_day(4), "event_timestamp", closed="right")
    frames = build_features(with_tables(landed, counting(toy.SHOP_DAY, ticks)), toy_day(4))
    assert len(ticks) == 24
    assert content_hash(frames["shop_day"]) == content_hash(rows)
