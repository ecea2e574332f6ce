"""The offline store: our own way through Feast gives what Feast's gives, in parts as at once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from feast import FeatureService

from feature_repo import offline_store
from feature_repo.contract import Period
from feature_repo.errors import StoreUnavailable
from feature_repo.lake import Lake
from feature_repo.store import FeatureStore
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)
STAMP = "event_timestamp"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Return a store of the toy problem whose view has ten ticks of two shops, some values null."""
    rows = [
        (shop, NOON + timedelta(hours=hour), None if hour == 4 else hour / 7)
        for shop in ("north", "south")
        for hour in range(10)
    ]
    frame = pl.DataFrame(rows, schema=["shop", STAMP, "shop_returned_1d"], orient="row")
    period = Period(NOON - timedelta(hours=1), NOON + timedelta(hours=9))
    frame = frame.with_columns(pl.col(STAMP).cast(toy.INSTANT))
    Lake(tmp_path / "lake").replace("shop_day", frame, period, STAMP, closed="right")
    store = FeatureStore(tmp_path, toy.TOY)
    store.apply()
    return store


def make_requests() -> pl.DataFrame:
    """Return requests in no order of time: before the first tick, on ticks, between, beyond the limit."""
    hours = [16, -1, 0, 3.5, 4, 4.5, 15, 15.001, 8, 40]
    rows = [
        (f"o{i}-{shop}", shop, 5.0 + i, at, at)
        for i, at in enumerate(NOON + timedelta(hours=hour) for hour in hours)
        for shop in ("north", "moon", "south")
    ]
    names = ["order_id", "shop", "amount", "ordered_at", "decided_at"]
    schema = {"ordered_at": toy.INSTANT, "decided_at": toy.INSTANT}
    return pl.DataFrame(rows, schema=names, schema_overrides=schema, orient="row")


def test_what_we_retrieve_is_what_feast_retrieves(store: FeatureStore) -> None:
    """The stored views and the request-time view alike, row by row in the order asked."""
    asked = make_requests()
    ours = store.read_historical(asked)
    entities = asked.with_columns(pl.col("decided_at").alias(STAMP)).to_pandas()
    service = store._store.get_feature_service(toy.TOY.feature_service)
    job = store._store.get_historical_features(entity_df=entities, features=service)
    feast = pl.from_pandas(job.to_df()).with_columns(pl.col("ordered_at", "decided_at").cast(toy.INSTANT))
    assert ours["order_id"].to_list() == asked["order_id"].to_list()
    assert ours.equals(feast.select(ours.columns))
    assert ours.filter(pl.col("shop") == "north")["shop_returned_1d"].to_list() == [
        *(None, None, 0.0, 3 / 7, None, None, 9 / 7, None, 8 / 7, None)
    ]


def test_parts_join_to_the_same_as_all_at_once(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are joined at a time; none at all is a frame with every column."""
    asked = make_requests()
    whole = store.read_historical(asked)
    for part in (1, 7, 30):
        monkeypatch.setattr(offline_store, "PART", part)
        assert store.read_historical(asked).equals(whole)
    none = store.read_historical(asked.head(0))
    assert (len(none), none.schema) == (0, whole.schema)


def test_a_view_may_be_asked_under_another_name_and_by_other_columns(store: FeatureStore) -> None:
    """A view that is joined twice, by two columns, gives each column's own rows."""
    view = store._store.get_feature_view("shop_day")
    bought = view.with_name("bought").with_join_key_map({"shop": "bought_at"})
    service = FeatureService(name="twice", features=[view.with_name("own"), bought])
    store._store.apply([service])
    hours = [3, 4, 9]
    rows = [("north", "moon", NOON), *(("moon", "south", NOON + timedelta(hours=h)) for h in hours)]
    entities = pl.DataFrame(rows, schema=["shop", "bought_at", STAMP], orient="row")
    job = store._store.get_historical_features(
        entity_df=entities.to_pandas(),
        features=store._store.get_feature_service("twice"),
        full_feature_names=True,
    )
    told = pl.from_pandas(job.to_df())
    assert told["own__shop_returned_1d"].to_list() == [0.0, None, None, None]
    assert told["bought__shop_returned_1d"].to_list() == [None, 3 / 7, None, 9 / 7]
    plain = store._store.get_historical_features(
        entity_df=entities.to_pandas(), features=["shop_day:shop_returned_1d"]
    )
    assert pl.from_pandas(plain.to_df())["shop_returned_1d"].to_list() == [0.0, None, None, None]


@pytest.mark.parametrize("entities", [None, "SELECT shop FROM orders", pl.DataFrame({"shop": ["north"]})])
def test_entities_that_are_no_frame_are_refused(store: FeatureStore, entities: object) -> None:
    """The store runs no SQL and makes up no entities; it says what it takes."""
    view = store._store.get_feature_view("shop_day")
    with pytest.raises(StoreUnavailable, match="a frame of pandas or Polars"):
        offline_store.LakeOfflineStore.get_historical_features(
            store._store.config, [view], ["shop_day:shop_returned_1d"], entities, None, "perennial"
        )
