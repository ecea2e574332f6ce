"""Delta against Iceberg, and a compacted table against one of many files: python tests/bench/bench_lake.py.

A year of daily batches of 920 rows is appended; one day is replaced; an old version and a month are read;
a writer is killed with SIGKILL; two write at once. Iceberg runs if `pyiceberg[sql-sqlite,pyarrow]` is
installed beside (it is none of our packages); the catalogue is SQLite.
"""

import importlib.util
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import CONFIGURATION, Lake, content_hash

START, DAYS, ROWS, KILLS, EACH = datetime(2024, 1, 1, tzinfo=UTC), 365, 920, 6, 20


def make_day(n: int, value: float = 0.0) -> pl.DataFrame:
    """Return one day's batch: 920 rows of 12 columns."""
    rng = random.Random(n)
    return pl.DataFrame(
        {
            "id": [f"{n}-{i}" for i in range(ROWS)],
            **{f"text{c}": [rng.choice("abcdefgh") for _ in range(ROWS)] for c in range(4)},
            **{f"number{c}": [value + rng.random() for _ in range(ROWS)] for c in range(6)},
            "known_at": [START + timedelta(days=n, seconds=60 * i) for i in range(ROWS)],
        },
        schema_overrides={"known_at": pl.Datetime("us", "UTC")},
    )


def day(n: int) -> Period:
    """Return the n-th day."""
    return Period(START + timedelta(days=n), START + timedelta(days=n + 1))


class Delta:
    """A table through the lake."""

    name = "delta"

    def __init__(self, root: Path) -> None:
        self.lake = Lake(root)

    def append(self, frame: pl.DataFrame) -> None:
        from deltalake import write_deltalake

        path = self.lake.root / "t"
        path.mkdir(parents=True, exist_ok=True)
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        write_deltalake(str(path), table, mode="append", configuration=CONFIGURATION)

    def replace(self, frame: pl.DataFrame, n: int) -> None:
        self.lake.replace("t", frame, day(n), "known_at")

    def read(self, version: int | None = None) -> pl.DataFrame:
        return self.lake.read("t", version=version)

    def read_month(self) -> pl.DataFrame:
        return self.lake.read("t", Period(day(330).since, day(360).since))

    def version(self) -> int:
        return self.lake.version("t")


class Iceberg:
    """A table of pyiceberg with a SQLite catalogue."""

    name = "iceberg"

    def __init__(self, root: Path) -> None:
        from pyiceberg.catalog.sql import SqlCatalog

        root.mkdir(parents=True, exist_ok=True)
        self._catalog = SqlCatalog("c", uri=f"sqlite:///{root / 'catalog.db'}", warehouse=f"file://{root}")
        self._catalog.create_namespace_if_not_exists("n")

    def _table(self, schema: Any = None) -> Any:
        return (
            self._catalog.create_table_if_not_exists("n.t", schema)
            if schema
            else self._catalog.load_table("n.t")
        )

    def append(self, frame: pl.DataFrame) -> None:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        self._table(table.schema).append(table)

    def replace(self, frame: pl.DataFrame, n: int) -> None:
        from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan

        within = And(
            GreaterThanOrEqual("known_at", day(n).since.isoformat()),
            LessThan("known_at", day(n).until.isoformat()),
        )
        self._table().overwrite(frame.to_arrow(compat_level=pl.CompatLevel.oldest()), overwrite_filter=within)

    def read(self, version: int | None = None) -> pl.DataFrame:
        table = self._table()
        number = None if version is None else table.history()[version].snapshot_id
        return pl.from_arrow(table.scan(snapshot_id=number).to_arrow())

    def read_month(self) -> pl.DataFrame:
        since, until = day(330).since.isoformat(), day(360).since.isoformat()
        found = self._table().scan(row_filter=f"known_at >= '{since}' and known_at < '{until}'")
        return pl.from_arrow(found.to_arrow())

    def version(self) -> int:
        return len(self._table().history()) - 1


KINDS = {"delta": Delta, "iceberg": Iceberg}


def race(kind: Any, folder: Path) -> dict[str, Any]:
    """Return what one format took and withstood."""
    table, days = kind(folder / "year"), [make_day(n) for n in range(DAYS)]
    told: dict[str, Any] = {"format": kind.name}
    since = time.perf_counter()
    for frame in days:
        table.append(frame)
    told["365 appends, s"] = time.perf_counter() - since
    old = content_hash(table.read(179))
    told["replace a day, ms"] = timed(lambda: table.replace(make_day(50, 1.0), 50), 1)
    assert content_hash(table.read(179)) == old
    assert len(table.read()) == DAYS * ROWS
    told["read version 180, ms"] = timed(lambda: table.read(179))
    told["read a month, ms"] = timed(table.read_month)
    told["files on disk"] = sum(1 for path in (folder / "year").rglob("*") if path.is_file())
    told["MB on disk"] = sum(p.stat().st_size for p in (folder / "year").rglob("*") if p.is_file()) / 1e6
    if kind is Delta:
        table.lake.compact("t")
        told["read a month, compacted, ms"] = timed(table.read_month)
        told["read version 180 after compaction, ms"] = timed(lambda: table.read(179))
        assert content_hash(table.read(179)) == old
    told["kills, whole after"] = (
        f"{sum(survives(kind, folder / f'k{n}', n) for n in range(KILLS))} of {KILLS}"
    )
    told["two writers"] = write_together(kind, folder / "two")
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in told.items()}


def timed(work: Any, rounds: int = 5) -> float:
    """Return the median of some rounds, in milliseconds."""
    taken = []
    for _ in range(rounds):
        since = time.perf_counter()
        work()
        taken.append(time.perf_counter() - since)
    return sorted(taken)[rounds // 2] * 1_000


def survives(kind: Any, folder: Path, n: int) -> bool:
    """Kill a writer in the middle; return whether only whole batches are there, and the next one lands."""
    with subprocess.Popen(command(kind, folder, 0, 10_000), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.3 + 0.037 * n)
        child.send_signal(signal.SIGKILL)
    table = kind(folder)
    before = len(table.read())
    table.append(make_day(1))
    return before % ROWS == 0 and len(table.read()) == before + ROWS


def write_together(kind: Any, folder: Path) -> str:
    """Let two processes append at once; return how many batches landed, and how many were refused."""
    kind(folder).append(make_day(0))
    children = [
        subprocess.Popen(command(kind, folder, n, EACH), stdout=subprocess.PIPE, text=True) for n in (1, 2)
    ]
    refused = sum(int(child.communicate()[0].split()[-1]) for child in children)
    landed = len(kind(folder).read()) // ROWS - 1
    return f"{landed} of {2 * EACH} landed, {refused} refused"


def command(kind: Any, folder: Path, first: int, count: int) -> list[str]:
    """Return the command line of a child that appends."""
    return [sys.executable, __file__, kind.name, str(folder), str(first), str(count)]


def append_many(name: str, folder: str, first: str, count: str) -> None:
    """Be the child: append batches one after the other and count those refused."""
    table, refused = KINDS[name](Path(folder)), 0
    table.append(make_day(int(first)))
    print("begun", flush=True)
    for n in range(1, int(count)):
        try:
            table.append(make_day(int(first) + n))
        except Exception:  # noqa: BLE001 - whatever a format raises, it refused
            refused += 1
    print(refused)


def main() -> None:
    """Race what is installed, and print one JSON object a format."""
    kinds = [Delta, *([Iceberg] if importlib.util.find_spec("pyiceberg") else [])]
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(race(kind, Path(folder))), flush=True)


if __name__ == "__main__":
    append_many(*sys.argv[1:]) if len(sys.argv) > 1 else main()
