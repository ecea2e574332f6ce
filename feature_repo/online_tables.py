"""The online store's own tables, in one SQLite file: a row per entity key and view, all features in it.

Plain SQL, and no Feast: a whole request's vector is one statement, so that its views are all of the same
instant. Readers never wait for the writer (WAL), and a kill leaves a table as before a write or as after.
"""

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

STAMP = "event_timestamp"
JOINED = 60  # SQLite joins at most 64 tables in a statement
KEPT = 5_000  # vectors, some kilobytes each
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
Row = tuple[Any, ...]
Shape = Callable[[Row, Row], Any]


@dataclass(frozen=True)
class OnlineTable:
    """A view's table: SQL types by name. `event_timestamp` is in microseconds since 1970."""

    name: str
    keys: Mapping[str, str]
    features: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names in the order in which rows are written and read."""
        return (*self.keys, STAMP, *self.features)


class VectorQuery:
    """Reads the row of one key in each of some tables at once, given values of `keys` in their order.

    shape  what is made of each table's stamp, and all tables' features; as they are if it is not given
    """

    def __init__(
        self,
        tables: Sequence[OnlineTable],
        shape: Shape = lambda stamps, values: (stamps, values),
        absent: AbstractSet[str] = frozenset(),
    ) -> None:
        self._tables = tables
        self._shape = shape
        self.kept: tuple[Any, dict[Row, Any]] = (None, {})  # a state of the file, and what was read in it
        self.keys = tuple(key for table in tables for key in table.keys)
        self._parts: list[tuple[str, slice | None, int]] = []  # statement, its keys (None: all), its tables
        start = 0
        for first in range(0, len(tables), JOINED):
            part = tables[first : first + JOINED]
            end = start + sum(len(table.keys) for table in part)
            given = None if len(part) == len(tables) else slice(start, end)
            self._parts.append((vector_sql(part, absent), given, len(part)))
            start = end

    def without_absent(self, connection: sqlite3.Connection) -> "VectorQuery | None":
        """Return the query that finds nothing in tables that are not there; None if that does not help."""
        absent = {table.name for table in self._tables if not read_layout(connection, table.name)}
        some = 0 < len(absent) < len(self._tables)
        return VectorQuery(self._tables, self._shape, absent) if some else None

    def run(self, connection: sqlite3.Connection, keys: Sequence[Any]) -> Any:
        """Return what a key has, in shape: None stands where a table has no row of it."""
        stamps: Row = ()
        values: Row = ()
        for sql, given, count in self._parts:
            row = connection.execute(sql, keys if given is None else keys[given]).fetchone()
            if given is None:
                return self._shape(row[:count], row[count:])
            stamps, values = stamps + row[:count], values + row[count:]
        return self._shape(stamps, values)


class OnlineTables:
    """The file, for one process: one connection, opened at first use and again if the file was replaced.

    Errors are SQLite's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._opened_on: tuple[int, int] | None = None
        self._writing = threading.Lock()
        self._commits = 0  # our own: SQLite tells a connection of the others' alone

    def apply(self, tables: Sequence[OnlineTable], dropped: Sequence[str] = ()) -> list[str]:
        """Make the tables, and anew those of another layout; return the names of what was made, empty.

        A changed layout never keeps its rows: a feature's old values would look as new as the row.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction(create=True) as connection:
            for name in dropped:
                connection.execute(f"DROP TABLE IF EXISTS {quote(name)}")
            made = [t for t in tables if read_layout(connection, t.name) != sorted(lay_out(t))]
            for table in made:
                connection.execute(f"DROP TABLE IF EXISTS {quote(table.name)}")
                connection.execute(create_sql(table))
        return [table.name for table in made]

    def write(
        self, parts: Iterable[tuple[OnlineTable, Iterable[Row]]], *, over: datetime | None = None
    ) -> int:
        """Upsert rows (in the order of `columns`) of some tables in one transaction; return rows changed.

        A row does not replace a newer one, unless that one's tick is up to `over`, nor one equal to it.
        """
        with self._transaction() as connection:
            return sum(
                max(0, connection.executemany(upsert_sql(table, over), rows).rowcount)
                for table, rows in parts
            )

    def read(self, query: VectorQuery, keys: Iterable[Sequence[Any]]) -> list[Any]:
        """Return what a query reads for each row of keys.

        A table that is not there yet, as of a version that no run has made, has no row. What was read
        since the last change of the file, by whomever, is not read again.
        """
        connection, asked = self.connect(), list(map(tuple, keys))
        kept = self._find_kept(query, connection)
        try:
            vectors = [kept.get(row) for row in asked]
            for place, found in enumerate(vectors):
                if found is None:
                    row = asked[place]
                    vectors[place] = kept[row] = query.run(connection, row)
            return vectors
        except sqlite3.OperationalError:
            rest = query.without_absent(connection)
            if rest is None:
                raise
            return [rest.run(connection, row) for row in asked]

    def _find_kept(self, query: VectorQuery, connection: sqlite3.Connection) -> dict[Row, Any]:
        version = connection.execute("PRAGMA data_version").fetchone()[0]  # counts the others' commits
        state, (known, kept) = (connection, version, self._commits), query.kept
        if state != known or len(kept) > KEPT:
            # Another one, so that who still reads for the old one does not write into it.
            kept = {}
            query.kept = state, kept
        return kept

    def list_empty(self, names: Sequence[str]) -> list[str]:
        """Return which of the tables have no row."""
        connection = self.connect()
        one = "SELECT EXISTS (SELECT 1 FROM {})"
        return [name for name in names if not connection.execute(one.format(quote(name))).fetchone()[0]]

    def connect(self, *, create: bool = False) -> sqlite3.Connection:
        """Return the connection. A file that is not there is made only if told to."""
        if self._connection is None:
            mode = "rwc" if create else "rw"
            # Threads take turns: SQLite guards its own calls, the lock above guards transactions.
            connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=30,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA journal_mode=WAL")
            weakref.finalize(self, connection.close)
            self._connection, self._opened_on = connection, self._identify()
        return self._connection

    def close(self) -> None:
        """Close the file; the next use opens it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        with self._writing:
            if self._connection is not None and self._opened_on != self._identify():
                self.close()  # else the rows would go to a file that nobody can open any more
            connection = self.connect(create=create)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            self._commits += 1

    def _identify(self) -> tuple[int, int] | None:
        try:
            told = os.stat(self._path)  # noqa: PTH116
        except OSError:
            return None
        return told.st_dev, told.st_ino


def quote(name: str) -> str:
    """Return a name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def lay_out(table: OnlineTable) -> list[tuple[str, str]]:
    """Return a table's columns and their types."""
    return [*table.keys.items(), (STAMP, "INTEGER"), *table.features.items()]


def read_layout(connection: sqlite3.Connection, name: str) -> list[tuple[str, str]]:
    """Return the columns and types of the table that is there, sorted; empty if there is none."""
    return sorted((row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({quote(name)})"))


def create_sql(table: OnlineTable) -> str:
    """Return the statement that makes a table."""
    columns = [f"{quote(name)} {kind}" for name, kind in lay_out(table)]
    keys = ", ".join(map(quote, table.keys))
    return f"CREATE TABLE {quote(table.name)} ({', '.join(columns)}, PRIMARY KEY ({keys})) WITHOUT ROWID"


def upsert_sql(table: OnlineTable, over: datetime | None) -> str:
    """Return the statement that writes one row, unless it is there as it is."""
    names, keys = ", ".join(map(quote, table.columns)), ", ".join(map(quote, table.keys))
    changed = ", ".join(f"{quote(n)} = excluded.{quote(n)}" for n in (STAMP, *table.features))
    held = f"{quote(table.name)}.{STAMP}"
    replaced = "" if over is None else f" OR {held} <= {to_microseconds(over)}"
    marks = ", ".join("?" * len(table.columns))
    into = f"INSERT INTO {quote(table.name)} ({names}) VALUES ({marks})"  # noqa: S608
    update = f"ON CONFLICT ({keys}) DO UPDATE SET {changed}"
    told = [quote(name) for name in (STAMP, *table.features)]
    there, new = (", ".join(f"{of}.{name}" for name in told) for of in (quote(table.name), "excluded"))
    return f"{into} {update} WHERE (excluded.{STAMP} >= {held}{replaced}) AND ({there}) IS NOT ({new})"


def vector_sql(tables: Sequence[OnlineTable], absent: AbstractSet[str] = frozenset()) -> str:
    """Return the statement that reads one key's row in each table as one row: stamps, then features."""
    names = [f"t{i}.{STAMP}" for i in range(len(tables))]
    names += [f"t{i}.{quote(name)}" for i, table in enumerate(tables) for name in table.features]
    joins = " ".join(
        f"LEFT JOIN {_empty_sql(table) if table.name in absent else quote(table.name)} t{i} ON "
        + " AND ".join(f"t{i}.{quote(k)} = ?" for k in table.keys)
        for i, table in enumerate(tables)
    )
    return f"SELECT {', '.join(names)} FROM (SELECT 1) {joins}"  # noqa: S608


def _empty_sql(table: OnlineTable) -> str:
    return f"(SELECT {', '.join(f'NULL AS {quote(name)}' for name in table.columns)} WHERE 0)"


def to_microseconds(instant: datetime) -> int:
    """Return an aware instant as the tables keep it."""
    return (instant - EPOCH) // MICROSECOND
