"""What is measured of a batch, and what is left out."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from expectations.profile import profile_batch, show
from feature_repo.contract import Period, RawTable

INSTANT = pl.Datetime("us", "UTC")
SINCE = datetime(2024, 5, 1, tzinfo=UTC)
DAY = Period(SINCE, SINCE + timedelta(days=1))
TABLE = RawTable(
    "sales", {"id": pl.String, "shop": pl.String, "amount": pl.Float64, "known_at": INSTANT}, key=("id",)
)


def make_batch() -> pl.DataFrame:
    """Return five sales: one key twice, one amount missing, the newest an hour before midnight."""
    return pl.DataFrame(
        {
            "id": ["a", "b", "b", "c", "d"],
            "shop": ["north", "north", "north", "south", None],
            "amount": [1.0, 2.0, 3.0, 4.0, None],
            "known_at": [SINCE + timedelta(hours=h) for h in (1, 5, 9, 20, 23)],
        },
        schema=dict(TABLE.schema),
    )


def test_a_profile_tells_volume_keys_age_and_columns() -> None:
    """Each documented measure has the value that a person would count."""
    told = profile_batch(make_batch(), TABLE, DAY)
    wanted = {
        "rows": 5,
        "duplicates": 2,
        "age_hours": 1,
        "amount.null_share": 0.2,
        "amount.min": 1,
        "amount.p50": 3,
        "amount.max": 4,
        "amount.mean": 2.5,
        "shop.distinct": 2,
        "shop.top": 0.75,
        "known_at.newest": (SINCE + timedelta(hours=23)).timestamp(),
    }
    assert {name: told[name] for name in wanted} == pytest.approx(wanted)


def test_what_is_undefined_is_left_out() -> None:
    """A column without values has a null share and no median; an empty batch has rows and no age."""
    nothing = make_batch().with_columns(amount=pl.lit(None, pl.Float64))
    assert profile_batch(nothing, TABLE, DAY)["amount.null_share"] == 1
    assert "amount.p50" not in profile_batch(nothing, TABLE, DAY)
    assert profile_batch(make_batch().clear(), TABLE, DAY).get("age_hours") is None
    assert profile_batch(make_batch().clear(), TABLE, DAY)["rows"] == 0


def test_a_number_that_is_none_does_not_hide_the_others() -> None:
    """NaN is left out of the quantiles."""
    odd = make_batch().with_columns(
        amount=pl.when(pl.col("id") == "a").then(float("nan")).otherwise("amount")
    )
    assert profile_batch(odd, TABLE, DAY)["amount.max"] == 4


def test_a_file_is_profiled_as_the_frame_is(tmp_path: Path) -> None:
    """A batch read column by column from disk has the same measures."""
    make_batch().write_parquet(tmp_path / "batch.parquet")
    scan = pl.scan_parquet(tmp_path / "batch.parquet")
    assert profile_batch(scan, TABLE, DAY) == pytest.approx(profile_batch(make_batch(), TABLE, DAY))


def test_values_are_shown_as_people_write_them() -> None:
    """A count has no point, a share is a percentage, an instant is a date."""
    shown = show("rows", 12.0), show("x.null_share", 0.25), show("known_at.newest", SINCE.timestamp())
    assert shown == ("12", "25.0%", "2024-05-01 00:00:00")
