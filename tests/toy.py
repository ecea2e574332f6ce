"""A second, small problem that runs through the same generic code: will an order be returned?

Orders of four shops over some weeks, made up from a seed. Returns become known three days later.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from expectations import rules
from expectations.rules import Rule
from feature_repo.contract import (
    Delivery,
    Feature,
    FeatureTable,
    Fetch,
    Frames,
    Lookup,
    Period,
    Problem,
    RawTable,
    SourceFile,
)
from feature_repo.transforms import hourly_ticks

INSTANT = pl.Datetime("us", "UTC")
START = datetime(2024, 1, 1, tzinfo=UTC)
PER_DAY = 240
SHOPS = ("north", "south", "east", "west")

ORDERS = RawTable(
    "orders",
    {
        "order_id": pl.String,
        "shop": pl.String,
        "amount": pl.Float64,
        "ordered_at": INSTANT,
        "known_at": INSTANT,
    },
    key=("order_id",),
)
RETURNS = RawTable(
    "returns",
    {"order_id": pl.String, "shop": pl.String, "returned": pl.Int8, "status": pl.String, "known_at": INSTANT},
    key=("order_id",),
)


def make_orders(days: int, seed: int = 0) -> dict[str, pl.DataFrame]:
    """Return both raw tables for `days` days: dear orders and two of the shops are returned more."""
    rng = np.random.default_rng(seed)
    n = days * PER_DAY
    seconds = np.sort(rng.integers(0, days * 86_400, n))
    shop, amount = rng.integers(0, len(SHOPS), n), rng.gamma(2.0, 40.0, n).round(2)
    returned = rng.random(n) < 0.05 + 0.25 * (shop >= 2) + 0.4 * (amount > 120)
    orders = pl.DataFrame(
        {
            "order_id": [f"order-{i:06}" for i in range(n)],
            "shop": [SHOPS[i] for i in shop],
            "amount": amount,
            "ordered_at": [START + timedelta(seconds=int(s)) for s in seconds],
        },
        schema_overrides={"ordered_at": INSTANT},
    ).with_columns(known_at=pl.col("ordered_at"))
    returns = orders.select(
        "order_id",
        "shop",
        returned=pl.Series(returned).cast(pl.Int8),
        status=pl.lit("settled"),
        known_at=pl.col("ordered_at") + timedelta(days=3),
    )
    return {"orders": orders.select(list(ORDERS.schema)), "returns": returns.select(list(RETURNS.schema))}


def open_toy_source(days: int = 30, seed: int = 0) -> Fetch:
    """Return `fetch(table, period)` over made-up orders."""
    tables = make_orders(days, seed)

    def fetch(table: str, period: Period) -> Delivery:
        known = pl.col("known_at").is_between(period.since, period.until, closed="left")
        return Delivery(tables[table].filter(known), (SourceFile(f"made up, seed {seed}", "0" * 64),))

    return fetch


def build_estimator(problem: Problem) -> Any:
    """Return what the bundled problem is learned by, with fewer trees: there is less to learn here."""
    from flows.model import build_estimator

    return build_estimator(problem).set_params(deep__trees__max_iter=40, flat__trees__max_iter=40)


def suite(table: str, period: Period) -> list[Rule]:
    """Return the rules of one batch."""
    if table == "returns":
        return [*rules.present("order_id", "shop"), rules.unique("order_id")]
    return [
        *rules.present("order_id", "shop", "amount"),
        rules.unique("order_id"),
        rules.one_of("shop", SHOPS),
        rules.between("amount", 0, 5_000),
        rules.row_count(1, 100_000),
    ]


def add_check_columns(table: str, frame: pl.DataFrame, lookup: Lookup) -> pl.DataFrame:
    """Nothing is compared across columns."""
    return frame


def build_requests(raw: Frames) -> pl.DataFrame:
    """Return one row an order."""
    return raw["orders"].select("order_id", "shop", "amount", "ordered_at", decided_at=pl.col("ordered_at"))


def build_outcomes(raw: Frames) -> pl.DataFrame:
    """Return what became of each order."""
    return raw["returns"].select("order_id", "returned", "status", "known_at")


def add_request_features(requests: pl.DataFrame) -> pl.DataFrame:
    """Add the hour of the order."""
    return requests.with_columns(hour=pl.col("ordered_at").dt.hour().cast(pl.Float64))


def shop_returns(raw: Frames, ticks: Sequence[datetime]) -> pl.DataFrame:
    """Return, per shop and tick, the share returned of what was settled in the day before."""
    frames = []
    for tick in ticks:
        past = raw["returns"].filter(
            (pl.col("known_at") < tick) & (pl.col("known_at") >= tick - timedelta(days=1))
        )
        share = past.group_by("shop").agg(shop_returned_1d=pl.col("returned").cast(pl.Float64).mean())
        frames.append(share.with_columns(event_timestamp=pl.lit(tick).cast(INSTANT)))
    return pl.concat(frames)


SHOP_DAY = FeatureTable(
    name="shop_day",
    keys=("shop",),
    features={"shop_returned_1d": pl.Float64},
    reads=("returns",),
    every=timedelta(hours=1),
    lookback=timedelta(days=1),
    ttl=timedelta(hours=6),
    compute=shop_returns,
    ticks=hourly_ticks,
)

TOY = Problem(
    name="toy-returns",
    entity="order_id",
    decided_at="decided_at",
    target="returned",
    prior=0.2,
    horizon=timedelta(days=4),
    time_zone="UTC",
    start=START,
    end=START + timedelta(days=30),
    feature_service="toy_v1",
    raw=(ORDERS, RETURNS),
    feature_tables=(SHOP_DAY,),
    features=(
        Feature("shop", "category", "request"),
        Feature("amount", "number", "request"),
        Feature("hour", "number", "request"),
        Feature("shop_returned_1d", "number", "shop_day"),
    ),
    request_fields={"ordered_at": INSTANT, "amount": pl.Float64},
    slices=("shop",),
    rule_by="hour",
    build_requests=build_requests,
    build_outcomes=build_outcomes,
    add_request_features=add_request_features,
    calendar=frozenset({"hour"}),
)
