"""The online tables: one row a key, written whole, read whole, kept newest."""

import sqlite3
import threading
from pathlib import Path

import pytest

from feature_repo.online_tables import EPOCH, MICROSECOND, OnlineTable, OnlineTables, VectorQuery

ONE = OnlineTable("one", {"shop": "TEXT"}, {"a": "REAL", "b": "INTEGER"})
TWO = OnlineTable("two", {"shop": "TEXT", "size": "TEXT"}, {"c": "TEXT"})
QUERY = VectorQuery([ONE, TWO])
NOTHING = ((None, None), (None, None, None))


@pytest.fixture
def tables(tmp_path: Path) -> OnlineTables:
    """Return an empty file with two tables."""
    tables = OnlineTables(tmp_path / "online.db")
    assert tables.apply([ONE, TWO]) == ["one", "two"]
    return tables


def test_a_vector_is_one_row_of_all_tables(tables: OnlineTables) -> None:
    """Stamps, then features, in the order of the tables; nulls where a table has no such key."""
    assert QUERY.keys == ("shop", "shop", "size")
    tables.write([(ONE, [("n", 5, 0.5, 1)]), (TWO, [("n", "big", 6, "x")])])
    assert tables.read(QUERY, [("n", "n", "big"), ("n", "n", "small"), ("m", "m", "big")]) == [
        ((5, 6), (0.5, 1, "x")),
        ((5, None), (0.5, 1, None)),
        NOTHING,
    ]


def test_what_is_kept_of_a_read_ends_with_the_next_write(tables: OnlineTables, tmp_path: Path) -> None:
    """By this process or by another: the next read has the new row, also where there was none."""
    other, query = OnlineTables(tmp_path / "online.db"), VectorQuery([ONE])
    for tick in range(1, 6):
        for writer in (tables, other):
            writer.write([(ONE, [("n", tick, float(tick), 1 if writer is tables else 2)])])
            for reader in (tables, other):
                for _ in range(2):
                    assert reader.read(query, [("n",), ("m",)]) == [
                        ((tick,), (float(tick), 1 if writer is tables else 2)),
                        ((None,), (None, None)),
                    ]


def test_more_tables_than_sqlite_joins_are_read_as_well(tmp_path: Path) -> None:
    """A hundred tables are one vector."""
    many = [OnlineTable(f"t{i}", {"k": "TEXT"}, {f"f{i}": "INTEGER"}) for i in range(100)]
    tables = OnlineTables(tmp_path / "online.db")
    tables.apply(many)
    tables.write([(table, [("k", 1, i)]) for i, table in enumerate(many)])
    assert tables.read(VectorQuery(many), [["k"] * 100])[0] == ((1,) * 100, tuple(range(100)))


def test_only_newer_rows_replace_and_only_those_count(tables: OnlineTables) -> None:
    """The same instant replaces; an older one only what was there up to a tick that is given."""
    assert tables.write([(ONE, [("n", 5, 0.5, 1)])]) == 1
    assert tables.write([(ONE, [("n", 4, 0.4, 0), ("m", 4, 0.4, 0)])]) == 1
    assert tables.write([(ONE, [("n", 5, 0.6, 1)])]) == 1
    assert tables.read(VectorQuery([ONE]), [("n",), ("m",)]) == [((5,), (0.6, 1)), ((4,), (0.4, 0))]
    assert tables.write([(ONE, [("n", 3, 0.3, 0)])], over=EPOCH + 4 * MICROSECOND) == 0
    assert tables.write([(ONE, [("n", 3, 0.3, 0)])], over=EPOCH + 5 * MICROSECOND) == 1
    assert tables.read(VectorQuery([ONE]), [("n",)]) == [((3,), (0.3, 0))]


def test_a_row_that_is_there_as_it_is_is_not_written(tables: OnlineTables) -> None:
    """Nor when told to replace what is there; a null is a value like others."""
    assert tables.write([(ONE, [("n", 5, None, 1), ("m", 5, 0.5, 1)])]) == 2
    assert tables.write([(ONE, [("n", 5, None, 1), ("m", 5, None, 1)])]) == 1
    assert tables.write([(ONE, [("n", 5, None, 1)])], over=EPOCH + 5 * MICROSECOND) == 0


def test_a_write_that_fails_changes_nothing(tables: OnlineTables) -> None:
    """All tables of a write are as before it or as after it."""
    with pytest.raises(sqlite3.Error):
        tables.write([(ONE, [("n", 5, 0.5, 1)]), (TWO, [("n", "big", 6)])])
    assert tables.read(QUERY, [("n", "n", "big")]) == [NOTHING]
    assert tables.write([(ONE, [("n", 5, 0.5, 1)])]) == 1


def test_a_changed_layout_starts_empty(tables: OnlineTables) -> None:
    """Values of before a feature came would look as new as the row does; a table that is gone has no row."""
    tables.write([(ONE, [("n", 5, 0.5, 1)]), (TWO, [("n", "big", 6, "x")])])
    wider = OnlineTable("one", ONE.keys, {**ONE.features, "z": "REAL"})
    assert tables.apply([wider, TWO]) == ["one"]
    assert tables.list_empty(["one", "two"]) == ["one"]
    turned = OnlineTable("one", ONE.keys, dict(reversed(wider.features.items())))
    assert tables.apply([turned], dropped=["two"]) == []
    assert tables.read(QUERY, [("n", "n", "big")]) == [NOTHING]
    assert tables.apply([turned], dropped=["one"]) == ["one"]


def test_readers_do_not_wait_for_the_writer(tables: OnlineTables, tmp_path: Path) -> None:
    """While a write is under way, others read what was there before it."""
    tables.write([(ONE, [("n", 5, 0.5, 1)])])
    begun, go_on = threading.Event(), threading.Event()

    def rows():
        yield ("n", 6, 0.6, 2)
        begun.set()
        assert go_on.wait(20)

    writer = threading.Thread(target=lambda: OnlineTables(tmp_path / "online.db").write([(ONE, rows())]))
    writer.start()
    assert begun.wait(20)
    assert tables.read(VectorQuery([ONE]), [("n",)]) == [((5,), (0.5, 1))]
    go_on.set()
    writer.join()
    assert tables.read(VectorQuery([ONE]), [("n",)]) == [((6,), (0.6, 2))]


def test_rows_go_to_the_file_that_is_there_now(tables: OnlineTables, tmp_path: Path) -> None:
    """A file that was replaced under an open store is noticed before the next write."""
    tables.write([(ONE, [("n", 5, 0.5, 1)])])
    for path in tmp_path.glob("online.db*"):
        path.unlink()
    with pytest.raises(sqlite3.OperationalError):
        tables.write([(ONE, [("n", 6, 0.6, 2)])])
    assert not (tmp_path / "online.db").exists()
    OnlineTables(tmp_path / "online.db").apply([ONE, TWO])
    tables.write([(ONE, [("n", 7, 0.7, 3)])])
    assert tables.read(VectorQuery([ONE]), [("n",)]) == [((7,), (0.7, 3))]


def test_a_key_that_is_a_number_in_the_request_finds_its_text(tables: OnlineTables) -> None:
    """Keys are stored as text; a flight's number comes as a number."""
    query = VectorQuery([ONE])
    tables.write([(ONE, [("1545", 5, 0.5, 1)])])
    assert tables.read(query, [(1545,), ("1545",)]) == [((5,), (0.5, 1))] * 2
