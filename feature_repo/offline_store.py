"""Feast's offline store over the lake: the point-in-time join as Polars as-of joins.

Plugged in through Feast's own extension point (`offline_store.type`). Feast's stock file stores give
equal values an order of magnitude slower. An expired row (older than its view's `ttl`) joins as null.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast import FileSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import Field

from feature_repo.errors import StoreUnavailable

INSTANT = pl.Datetime("us", "UTC")
PART = 1_000_000  # rows joined at a time


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    """Where the lake is (a relative path starts at the repo), and which table versions to read.

    A table without a version is read at its newest.
    """

    type: str = "feature_repo.offline_store.LakeOfflineStore"
    lake: str
    versions: dict[str, int] = Field(default_factory=dict)


class LakeSource(FileSource):
    """A table of the lake, by its name: only the offline store knows where the lake is."""

    def validate(self, config: RepoConfig) -> None:
        """Look for no file: the name is no path, and the table comes with the first run."""


class LakeJob(RetrievalJob):
    """A lazy retrieval, run by Feast when its result is asked for."""

    def __init__(
        self,
        plan: Callable[[], pl.DataFrame],
        on_demand: list[OnDemandFeatureView],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._plan = plan
        self._on_demand = on_demand
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named view__feature."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes on the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def to_polars(self) -> pl.DataFrame:
        """Return the rows with what the stored views hold; on-demand views are Feast's `to_df` only."""
        return self._plan()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._plan().to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._plan().to_arrow(compat_level=pl.CompatLevel.oldest())

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Refuse: a training set is rebuilt from its snapshot, not stored twice."""
        raise NotImplementedError("a training set is rebuilt from its lake snapshot")


class LakeOfflineStore(OfflineStore):
    """Feast's offline store interface over Delta tables."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """Join each view's newest row at or before each entity row's `event_timestamp`."""
        frame = _read_entities(entity_df)
        frame = frame.with_columns(pl.col("event_timestamp").cast(INSTANT))

        def plan() -> pl.DataFrame:
            newest = frame["event_timestamp"].max()
            views = [
                _read_view(view, feature_refs, config, full_feature_names, newest) for view in feature_views
            ]
            # Part after part: what a join needs beside its result does not grow with the rows.
            parts = [_join(part, views) for part in frame.iter_slices(PART)] if len(frame) else []
            return pl.concat(parts) if parts else _join(frame, views)

        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        keys = [column for column in frame.columns if column != "event_timestamp"]
        return LakeJob(plan, on_demand, full_feature_names, RetrievalMetadata(feature_refs, keys))

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return the newest row a key in [start_date, end_date], for materialization."""

        def plan() -> pl.DataFrame:
            rows = _scan(config, data_source, start_date, end_date).collect().sort(timestamp_field)
            newest = rows.unique(join_key_columns, keep="last", maintain_order=True)
            return newest.select(*join_key_columns, *feature_name_columns, timestamp_field)

        return LakeJob(plan, [], full_feature_names=False)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return every row in [start_date, end_date]."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]

        def plan() -> pl.DataFrame:
            return _scan(config, data_source, start_date, end_date).select(columns).collect()

        return LakeJob(plan, [], full_feature_names=False)


def _read_entities(given: Any) -> pl.DataFrame:
    if not isinstance(given, pl.DataFrame | pd.DataFrame) or "event_timestamp" not in given.columns:
        frame = isinstance(given, pl.DataFrame | pd.DataFrame)
        raise StoreUnavailable(
            "historical features",
            got=f"columns {', '.join(map(str, given.columns))}" if frame else f"entity_df={given!r}",
            expected="a frame of pandas or Polars with the keys and event_timestamp",
            next_step="Read the entities into a frame first: this store runs no SQL and lists no entities.",
        )
    return given if isinstance(given, pl.DataFrame) else pl.from_pandas(given)


@dataclass(frozen=True)
class _View:
    """A view's rows, sorted by time, with columns named as the result has them."""

    keys: list[str]
    ttl: timedelta | None
    rows: pl.DataFrame


def _read_view(view: FeatureView, refs: list[str], config: RepoConfig, full: bool, until: Any) -> _View:
    # A view may be asked under another name, and its keys as other columns: origin as from_airport.
    shown, renamed = view.projection.name_to_use(), view.projection.join_key_map
    asked = {field.name: renamed.get(field.name, field.name) for field in view.entity_columns}
    names = [ref.split(":")[1] for ref in refs if ref.split(":")[0] == shown]
    keyed = (pl.col(key).alias(name) for key, name in asked.items())
    columns = (pl.col(name).alias(f"{shown}__{name}" if full else name) for name in names)
    scan = _scan(config, view.batch_source, None, until).select(*keyed, "event_timestamp", *columns)
    keys = list(asked.values())
    return _View(keys, view.ttl, scan.collect().sort("event_timestamp"))


def _join(part: pl.DataFrame, views: list[_View]) -> pl.DataFrame:
    # Only what the joins look at is sorted by time, and only what they find is sorted back.
    keys = list(dict.fromkeys(key for view in views for key in view.keys))
    asked = part.select("event_timestamp", *keys).with_row_index("_row").sort("event_timestamp")
    back = asked["_row"].arg_sort()
    found = []
    for view in views:
        # Sorted by time as a whole, as the join needs; Polars cannot see that within keys.
        joined = asked.join_asof(
            view.rows,
            on="event_timestamp",
            by=view.keys,
            strategy="backward",
            tolerance=view.ttl,
            check_sortedness=False,
        )
        found += joined.drop(asked.columns)[back].get_columns()
    return part.hstack(found)


def _scan(config: RepoConfig, source: Any, since: datetime | None, until: Any) -> pl.LazyFrame:
    root = Path(config.offline_store.lake)
    root = root if root.is_absolute() else Path(str(config.repo_path)) / root
    scan = pl.scan_delta(str(root / source.path), version=config.offline_store.versions.get(source.path))
    if since is not None:
        scan = scan.filter(pl.col("event_timestamp") >= pl.lit(since).cast(INSTANT))
    if until is not None:
        scan = scan.filter(pl.col("event_timestamp") <= pl.lit(until).cast(INSTANT))
    return scan
