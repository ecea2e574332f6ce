"""The online store: Feast's interface and our own reads give the same, of whatever type and state."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from feature_repo.contract import FeatureTable, Period, Problem
from feature_repo.errors import StoreUnavailable
from feature_repo.store import FeatureStore, judge_ages
from flows.features import build_features, materialize_period
from flows.ingest import ingest_period
from flows.project import Project
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
NOON = datetime(2024, 1, 5, 12, tzinfo=UTC)
KINDS = {"share": pl.Float64, "count": pl.Int64, "colour": pl.String, "open": pl.Boolean}


def make_view(name: str, keys: tuple[str, ...]) -> FeatureTable:
    features = {f"{name}_{feature}": kind for feature, kind in KINDS.items()}
    return dataclasses.replace(toy.SHOP_DAY, name=name, keys=keys, features=features)


VIEWS = (make_view("one", ("shop",)), make_view("two", ("shop", "size")))
TYPED: Problem = dataclasses.replace(
    toy.TOY, feature_tables=VIEWS, features=toy.TOY.features[:3], request_fields=toy.TOY.request_fields
)


def make_rows(view: FeatureTable, rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    schema = {
        **dict.fromkeys(view.keys, pl.String),
        "event_timestamp": pl.Datetime("us", "UTC"),
        **view.features,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def write(store: FeatureStore, home: Path, frames: dict[str, pl.DataFrame]) -> int:
    from feature_repo.lake import Lake

    period = Period(NOON - timedelta(days=30), NOON + timedelta(hours=1))
    for name, frame in frames.items():
        Lake(home / "lake").replace(name, frame, period, "event_timestamp", closed="right")
    return store.write_period(frames, period)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder for one store."""
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> FeatureStore:
    """Return a store of two views with a feature of each type: full, null, old, from the future."""
    store = FeatureStore(home, TYPED)
    store.apply()
    old, half = NOON - timedelta(days=2), NOON + timedelta(milliseconds=500)
    one = [
        ("north", NOON, 0.25, -7, "blué", True),
        ("south", NOON, None, None, None, None),
        ("east", old, 1e300, 2**62, "", False),
        ("west", half, float("nan"), 0, "0", False),
    ]
    two = [("north", "s'mall", NOON, -0.5, 1, "x", False), ("south", "big", old, 1.0, 2, None, None)]
    write(store, home, {"one": make_rows(VIEWS[0], one), "two": make_rows(VIEWS[1], two)})
    return store


ASKED = [
    {"shop": shop, "size": size, "decided_at": NOON + timedelta(hours=1)}
    for shop in ("north", "south", "east", "west", "moon")
    for size in ("s'mall", "big", "")
]


def ask_feast(store: FeatureStore, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    refs = [f"{view.name}:{name}" for view in VIEWS for name in view.features]
    entities = [{"shop": row["shop"], "size": row["size"]} for row in rows]
    answer = store._store.get_online_features(features=refs, entity_rows=entities)
    told: dict[str, list[Any]] = answer.to_dict(include_event_timestamps=True)
    return told


def test_feasts_interface_and_our_own_read_give_the_same_values(store: FeatureStore) -> None:
    """Each type, null, missing key, expired row: equal values, flags and instants by both ways."""
    answer = ask_feast(store, ASKED)
    ours = store.read_online(ASKED)
    for index, (row, vector) in enumerate(zip(ASKED, ours, strict=True)):
        feast = judge_ages(TYPED, answer, index, row["decided_at"])
        assert (vector.values, vector.missing) == (feast.values, feast.missing)
        # Feast's answer tells whole seconds.
        assert vector.expired == pytest.approx(feast.expired, abs=1)
        assert vector.ages == pytest.approx(feast.ages, abs=1)
    north = ours[0].values
    assert (north["one_share"], north["one_count"], north["one_colour"], north["one_open"]) == (
        0.25,
        -7.0,
        "blué",
        1.0,
    )
    assert type(answer["one_open"][0]) is bool
    assert answer["one_count"][6] == 2**62


def test_what_feast_writes_is_what_we_write(store: FeatureStore, home: Path, tmp_path: Path) -> None:
    """Feast's `write_to_online_store` and `materialize` fill the same tables with the same rows."""
    feast = store._store
    ours = store.read_online(ASKED)
    store._online.apply([], [layout.name for layout in store._layouts.values()])
    store._online.apply(list(store._layouts.values()))
    assert not any(vector.ages for vector in store.read_online(ASKED))
    feast.materialize(NOON - timedelta(days=10), NOON + timedelta(hours=1))
    assert store.read_online(ASKED) == ours
    newer = make_rows(VIEWS[0], [("moon", NOON, 0.5, 3, "m", True)]).to_pandas()
    feast.write_to_online_store("one", newer)
    assert store.read_online([ASKED[-1]])[0].values["one_count"] == 3.0


def test_a_newer_row_stays_whoever_writes(store: FeatureStore, home: Path) -> None:
    """An older row neither replaces a newer one by our write nor by Feast's; a refresh is the exception."""
    older = make_rows(VIEWS[0], [("north", NOON - timedelta(hours=1), 0.75, 1, "old", False)])
    store._store.write_to_online_store("one", older.to_pandas())
    assert store.read_online(ASKED[:1])[0].values["one_share"] == 0.25
    assert write(store, home, {"one": older}) == 0
    assert store.read_online(ASKED[:1])[0].values["one_share"] == 0.25
    store.refresh()
    assert store.read_online(ASKED[:1])[0].values["one_share"] == 0.75


def test_a_value_from_after_the_request_is_not_used(store: FeatureStore) -> None:
    """Half a second is enough: a tick counts from its very instant on, as in the point-in-time join."""
    row = {"shop": "west", "size": "", "decided_at": NOON + timedelta(milliseconds=400)}
    vector = store.read_online([row])[0]
    assert vector.expired["one_count"] == pytest.approx(-0.1)
    assert vector.values["one_count"] is None
    later = {**row, "decided_at": NOON + timedelta(milliseconds=500)}
    assert store.read_online([later])[0].values["one_count"] == 0.0


def test_our_tables_are_those_of_feasts_views(store: FeatureStore) -> None:
    """What the problem states and what Feast registered make one layout: a second apply makes nothing."""
    from feature_repo.online_store import describe

    for name, layout in store._layouts.items():
        told = describe(store._store.config, store._store.get_feature_view(name))
        assert (told.name, dict(told.keys), dict(told.features)) == (
            layout.name,
            dict(layout.keys),
            dict(layout.features),
        )
    before = store.read_online(ASKED)
    store.apply()
    assert store._online.apply(list(store._layouts.values())) == []
    assert store.read_online(ASKED) == before


def test_a_feature_that_the_past_lacks_is_missing_and_the_rest_is_served(
    store: FeatureStore, home: Path
) -> None:
    """A new feature of a view empties its table; until the past is computed anew nothing of it is guessed."""
    wider = dataclasses.replace(VIEWS[0], features={**VIEWS[0].features, "one_new": pl.Float64})
    changed = FeatureStore(home, dataclasses.replace(TYPED, feature_tables=(wider, VIEWS[1])))
    changed.apply()
    vector = changed.read_online(ASKED[:1])[0]
    assert vector.missing == tuple(wider.features)
    assert vector.values["two_share"] == -0.5


def test_a_table_that_no_run_has_made_is_missing_and_the_rest_is_served(
    store: FeatureStore, home: Path
) -> None:
    """New code before its first run: the old tables are read, the new one as soon as it is there."""
    second = dataclasses.replace(VIEWS[0], version=2)
    reader = FeatureStore(home, dataclasses.replace(TYPED, feature_tables=(second, *VIEWS)))
    before = store.read_online(ASKED)
    for old, new in zip(before, reader.read_online(ASKED), strict=True):
        assert new.missing == (*second.features, *old.missing)
        assert new.values == {**dict.fromkeys(second.features), **old.values}
        assert (new.ages, new.expired) == (old.ages, old.expired)
    writer = FeatureStore(home, dataclasses.replace(TYPED, feature_tables=(second, *VIEWS)))
    writer.apply()
    write(writer, home, {second.name: make_rows(second, [("north", NOON, 0.5, 9, "new", True)])})
    assert reader.read_online(ASKED[:1])[0].values["one_share_v2"] == 0.5


def test_a_store_without_any_of_its_tables_cannot_be_read(home: Path) -> None:
    """Nothing at all is not the same as nothing yet of one table."""
    FeatureStore(home, dataclasses.replace(TYPED, feature_tables=VIEWS[:1])).apply()
    with pytest.raises(StoreUnavailable, match="no such table"):
        FeatureStore(home, dataclasses.replace(TYPED, feature_tables=VIEWS[1:])).read_online(ASKED)


def test_a_home_with_feasts_own_tables_is_filled_from_the_lake(
    make_toy: Callable[..., Project], toy_day: Callable[[int], Period]
) -> None:
    """After an upgrade the first run makes the tables anew and puts online what had been online."""
    project = make_toy()
    period = Period(toy_day(0).since, toy_day(5).until)
    ingest_period(project, period)
    materialize_period(project, build_features(project, period), period)
    asked = [{"shop": shop, "decided_at": period.until} for shop in toy.SHOPS]
    before = project.store.read_online(asked)
    assert before[0].ages == {"shop_day": 0.0}
    project.store._online.close()
    make_stock_home(project.settings.home)
    with pytest.raises(StoreUnavailable, match="run ingest"):
        FeatureStore(project.settings.home, toy.TOY).read_online(asked)
    upgraded = FeatureStore(project.settings.home, toy.TOY)
    upgraded.apply()
    assert upgraded.read_online(asked) == before


def make_stock_home(home: Path) -> None:
    """Make Feast's own SQLite store where ours was, registry included."""
    from feast import FeatureStore as Feast
    from feast.repo_config import RepoConfig

    from feature_repo.definitions import build_objects

    for path in (home / "feast").glob("online.db*"):
        path.unlink()
    (home / "feast" / "registry.db").unlink()
    feast = Feast(
        config=RepoConfig(
            project="perennial",
            provider="local",
            registry=str(home / "feast" / "registry.db"),
            online_store={"type": "sqlite", "path": str(home / "feast" / "online.db")},
            offline_store={
                "type": "feature_repo.offline_store.LakeOfflineStore",
                "lake": str(home / "lake"),
            },
            entity_key_serialization_version=3,
        )
    )
    feast.apply(list(build_objects(toy.TOY).values()))
