"""The lake keeps every version that it is told to keep, whatever is compacted, corrected or vacuumed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from feature_repo.contract import Period
from feature_repo.errors import LakeBusy, NotEnoughData
from feature_repo.lake import Lake, Snapshot, content_hash

START = datetime(2024, 1, 1, tzinfo=UTC)


def day(n: int) -> Period:
    return Period(START + timedelta(days=n), START + timedelta(days=n + 1))


def rows(n: int, value: float = 0.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"{n}-{i}" for i in range(20)],
            "value": [value + i for i in range(20)],
            "known_at": [day(n).since + timedelta(minutes=i) for i in range(20)],
        },
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return a lake with a table of thirty daily batches."""
    lake = Lake(tmp_path / "lake")
    for n in range(30):
        lake.replace("sales", rows(n), day(n), "known_at")
    return lake


def test_the_version_read_off_the_log_is_the_tables(lake: Lake) -> None:
    """A version is the number of the newest commit, through compaction, checkpoint and vacuum."""
    for _ in range(2):
        assert lake.version("sales") == DeltaTable(str(lake.root / "sales")).version()
        lake.compact("sales")
        lake.vacuum("sales", (), 0)
    assert lake.version("nothing") == -1


def test_the_same_rows_commit_nothing(lake: Lake) -> None:
    """A replacement by what is there leaves the version as it was."""
    before = lake.version("sales")
    assert lake.replace("sales", rows(3), day(3), "known_at") == before


def test_a_commit_says_where_its_rows_came_from(lake: Lake) -> None:
    """What a writer tells of a commit is read back with it, after later commits and a compaction."""
    version = lake.replace("sales", rows(3, 5.0), day(3), "known_at", origin={"perennial.snapshot": "abc"})
    lake.compact("sales")
    told = {commit["version"]: commit.get("perennial.snapshot") for commit in lake.history("sales")}
    assert told[version] == "abc"
    assert lake.history("sales", version)[0]["version"] == version
    assert lake.history("nothing") == []


def test_compaction_makes_few_files_of_many_and_changes_no_row(lake: Lake) -> None:
    """Content hashes stay, of the newest version and of old ones; repeating it does nothing."""
    before, early = content_hash(lake.read("sales")), content_hash(lake.read("sales", version=9))
    assert lake.count_files("sales") == 30
    assert lake.compact("sales")
    assert lake.count_files("sales") == 1
    assert content_hash(lake.read("sales")) == before
    assert content_hash(lake.read("sales", version=9)) == early
    assert not lake.compact("sales")


def test_a_vacuum_without_grace_keeps_every_version_that_is_named(lake: Lake) -> None:
    """Versions from before a correction and a compaction stay readable; the others lose their files."""
    named = {9: content_hash(lake.read("sales", version=9)), 29: content_hash(lake.read("sales"))}
    between = lake.replace("sales", rows(4, 100.0), day(4), "known_at")
    lake.replace("sales", rows(4, 200.0), day(4), "known_at")
    newest = content_hash(lake.read("sales"))
    lake.compact("sales")
    files, size = lake.measure("sales")
    deleted = lake.vacuum("sales", named, 0)
    assert deleted > 0
    assert lake.measure("sales")[0] == files - deleted
    assert lake.measure("sales")[1] < size
    assert {v: content_hash(lake.read("sales", version=v)) for v in named} == named
    assert content_hash(lake.read("sales")) == newest
    assert not lake.can_read("sales", between)
    with pytest.raises(NotEnoughData, match=f"version {between} of sales"):
        lake.read("sales", version=between)
    assert lake.vacuum("sales", named, 0) == 0


def test_a_reader_that_has_begun_keeps_its_files_for_the_time_of_grace(lake: Lake) -> None:
    """What was planned before a compaction and a vacuum can still be read after them."""
    planned = pl.scan_delta(str(lake.root / "sales"))
    lake.compact("sales")
    assert lake.vacuum("sales", (), 24) == 0
    assert len(planned.collect()) == 600


def test_a_file_that_a_kill_left_behind_is_deleted(lake: Lake) -> None:
    """A data file that no commit names goes, once it is older than the time of grace."""
    orphan = lake.root / "sales" / "part-00000-left-behind.parquet"
    orphan.write_bytes(b"half a file")
    lake.vacuum("sales", (), 24)
    assert orphan.exists()
    lake.vacuum("sales", (), 0)
    assert not orphan.exists()


def test_a_snapshot_is_the_same_whoever_takes_it(lake: Lake) -> None:
    """Equal versions have one id, in any order; taking it twice leaves one record."""
    lake.replace("costs", rows(1), day(1), "known_at")
    first = lake.snapshot(["sales", "costs"])
    assert lake.snapshot(["costs", "sales"]) == first == lake.load_snapshot(first.id)
    assert lake.current(["costs", "sales"]) == first
    assert list(lake.snapshots()) == [first.id]
    assert Snapshot.of({"a": 1}).id != Snapshot.of({"a": 2}).id


def test_a_snapshot_that_is_not_there_is_named(lake: Lake) -> None:
    """An unknown or dropped id says so."""
    taken = lake.snapshot(["sales"])
    lake.drop_snapshot(taken.id)
    lake.drop_snapshot(taken.id)
    with pytest.raises(NotEnoughData, match=taken.id):
        lake.load_snapshot(taken.id)


def test_one_writer_at_a_time(lake: Lake) -> None:
    """A second writer is told who holds the lake."""
    with lake.writer("upkeep"), pytest.raises(LakeBusy, match="upkeep"), lake.writer("ingest"):
        pass


def test_the_history_of_an_old_version_ends_at_it(tmp_path: Path) -> None:
    """Commits after the version are not told, and the newest one at or before it comes first."""
    lake = Lake(tmp_path)
    for n in range(3):
        frame = pl.DataFrame(
            {"x": [n], "known_at": [START]}, schema_overrides={"known_at": pl.Datetime("us", "UTC")}
        )
        period = Period(START, START + timedelta(days=1))
        lake.replace("t", frame, period, "known_at", origin={"perennial.note": str(n)})
    told = [(c["version"], c.get("perennial.note")) for c in lake.history("t", 1)]
    assert told == [(1, "1"), (0, "0")]


def test_a_table_of_our_own_takes_columns_that_came_later(tmp_path):
    """A home of an older version goes on: what is there has nulls in what it did not know."""
    lake = Lake(tmp_path)
    lake.replace_where("verdicts", pl.DataFrame({"key": ["a"], "x": [1.0]}), "key", "a")
    for alarms in ("[]", "[1]"):
        later = pl.DataFrame({"key": ["b"], "x": [2.0], "alarms": [alarms]})
        lake.replace_where("verdicts", later, "key", "b")
    assert lake.read("verdicts").sort("key").rows() == [("a", 1.0, None), ("b", 2.0, "[1]")]
