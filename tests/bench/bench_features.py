"""The feature layer against what it could cost at best: python tests/bench/bench_features.py [1 10 30].

Prints one JSON object a line: historical retrieval of a year of flights (336,776 rows, all views) beside the
same as-of joins by hand in Polars and DuckDB, each in a process of its own, with the rows 1, 10 and 30
times; rows written online beside Feast's default path; one request's vector beside the raw read of SQLite.
"""

import itertools
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from feature_repo.contract import Period
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM

YEAR = Period(datetime(2012, 12, 30, tzinfo=UTC), datetime(2014, 1, 3, tzinfo=UTC))
WAYS = ("ours", "polars", "duckdb")
ROUNDS = 5
STAMP = "event_timestamp"
VIEW = PROBLEM.table("pair_recent")  # the view whose rows are written
WRITTEN, BY_FEAST = 100_000, 5_000  # rows: Feast's default path takes its time
READ_ROUNDS = 101  # over the requests of an hour, one by one


def build_home(home: Path, period: Period = YEAR) -> None:
    """Compute the period's features into a lake, and keep its requests beside it."""
    from feature_repo.source import open_source

    fetch, lake = open_source(), Lake(home / "lake")
    raw = {table.name: fetch(table.name, period).frame for table in PROBLEM.raw}
    for table in PROBLEM.feature_tables:
        frame = table.compute_rows({name: raw[name] for name in table.reads}, table.ticks(period))
        columns = [*table.keys, STAMP, *table.features]
        lake.replace(table.name, frame.select(columns), period, STAMP, closed="right")
    PROBLEM.build_requests(raw).write_parquet(home / "requests.parquet")


def read_requests(home: Path, times: int) -> pl.DataFrame:
    """Return the year's requests, repeated some seconds apart."""
    frame = pl.read_parquet(home / "requests.parquet")
    later = [frame.with_columns(pl.col("decided_at") + timedelta(seconds=n)) for n in range(times)]
    return pl.concat(later, rechunk=True)


def join_polars(home: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Join by hand in Polars."""
    joined = rows.sort("decided_at")
    for table in PROBLEM.feature_tables:
        features = pl.read_delta(str(home / "lake" / table.name)).sort(STAMP)
        joined = joined.join_asof(
            features,
            left_on="decided_at",
            right_on=STAMP,
            by=list(table.keys),
            tolerance=table.ttl,
            check_sortedness=False,
        ).drop(STAMP, strict=False)
    return PROBLEM.add_request_features(joined)


def join_duckdb(home: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Join by hand in DuckDB."""
    import duckdb

    names, joins, frames = [], [], {"asked": rows}
    for i, table in enumerate(PROBLEM.feature_tables):
        frames[f"f{i}"] = pl.read_delta(str(home / "lake" / table.name))
        fresh = f"asked.decided_at - t{i}.{STAMP} <= interval '{table.ttl.total_seconds():.0f} seconds'"
        names += [f"case when {fresh} then t{i}.{name} end as {name}" for name in table.features]
        same = " and ".join(f"asked.{key} = t{i}.{key}" for key in table.keys)
        joins.append(f"asof left join f{i} t{i} on {same} and asked.decided_at >= t{i}.{STAMP}")
    with duckdb.connect() as connection:
        connection.execute("set asof_loop_join_threshold = 0")
        for name, frame in frames.items():
            connection.register(name, frame)
        sql = f"select asked.*, {', '.join(names)} from asked {' '.join(joins)}"
        return PROBLEM.add_request_features(connection.sql(sql).pl())


def join_ours(home: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """Retrieve through the feature store."""
    return open_store(home).read_historical(rows)


def open_store(home: Path) -> Any:
    """Return the store, its definitions applied."""
    from feature_repo.store import FeatureStore

    if home not in _STORES:
        _STORES[home] = FeatureStore(home, PROBLEM)
        _STORES[home].apply()
    return _STORES[home]


_STORES: dict[Path, Any] = {}
JOINS = {"ours": join_ours, "polars": join_polars, "duckdb": join_duckdb}


def run_child(way: str, home: str, times: int) -> None:
    """Print the best time of some rounds and the peak memory of this process."""
    import importlib.util

    if way == "duckdb" and not importlib.util.find_spec("duckdb"):
        return
    folder, rows = Path(home), read_requests(Path(home), times)
    join = JOINS[way]
    join(folder, rows.head(100))
    taken, busy, cells = [], [], 0.0
    for _ in range(ROUNDS if way != "duckdb" and times == 1 else 1):
        since, began = time.perf_counter(), time.process_time()
        joined = join(folder, rows)
        taken.append(time.perf_counter() - since)
        busy.append(time.process_time() - began)
        stored = [name for table in PROBLEM.feature_tables for name in table.features]
        # Told so that a way that joins something else does not pass for a fast one.
        cells = float(joined.select(pl.sum_horizontal(pl.col(stored).sum())).item())
        del joined
    peak = read_peak()
    told = {"way": way, "times": times, "rows": len(rows), "seconds": min(taken), "cpu_seconds": min(busy)}
    told["first_cpu_seconds"] = busy[0]  # before the process has got its memory, as a single large one is
    print(json.dumps({**told, "peak_mb": peak, "sum_of_features": round(cells, 3)}))


def read_peak() -> float:
    """Return this process's peak memory in MB, without that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent had before this program took its place
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024)


def run_historical(home: Path, sizes: Sequence[int], ways: Sequence[str] = WAYS) -> Iterator[dict[str, Any]]:
    """Yield what each way and size takes."""
    for times, way in itertools.product(sizes, ways):
        if way == "duckdb" and times > 1:
            continue  # five times slower at once; only the best floor is worth the minutes
        command = [sys.executable, __file__, "--child", way, str(home), str(times)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def make_rows(count: int, at: datetime) -> pl.DataFrame:
    """Return a view's newest rows of so many keys, some values null."""
    number = pl.int_range(count, eager=True)
    features = {
        name: (number * 0.37 + i).shuffle(seed=i).replace(0.0, None) for i, name in enumerate(VIEW.features)
    }
    frame = pl.DataFrame(
        {"origin": number.cast(pl.String), "carrier": (number % 17).cast(pl.String), **features}
    )
    return frame.with_columns(pl.lit(at).cast(pl.Datetime("us", "UTC")).alias(STAMP))


def measure_writes(home: Path) -> dict[str, float]:
    """Return rows a second: a period put online, anew and again; the same by Feast's default path."""
    store, at = open_store(home), datetime(2015, 1, 1, tzinfo=UTC)
    rates: dict[str, float] = {}
    for name, hours in (("new keys", 1), ("known keys", 2)):
        tick = at + timedelta(hours=hours)
        frame = make_rows(WRITTEN, tick)
        period = Period(tick - timedelta(hours=1), tick)
        taken = _time(lambda frame=frame, period=period: store.write_period({VIEW.name: frame}, period))
        rates[name] = WRITTEN / taken
    few = make_rows(BY_FEAST, at + timedelta(hours=3)).to_pandas()
    feast = store._store
    rates["Feast's own write on our store"] = BY_FEAST / _time(
        lambda: feast.write_to_online_store(VIEW.name, few)
    )
    stock = open_stock_store(home)
    rates["Feast's default path"] = BY_FEAST / _time(lambda: stock.write_to_online_store(VIEW.name, few))
    return rates


def open_stock_store(home: Path) -> Any:
    """Return Feast as it comes: its own SQLite store, the same views."""
    from feast import FeatureStore as Feast
    from feast.repo_config import RepoConfig

    from feature_repo.definitions import build_objects

    folder = home / "stock"
    folder.mkdir(exist_ok=True)
    stock = Feast(
        config=RepoConfig(
            project="stock",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={
                "type": "feature_repo.offline_store.LakeOfflineStore",
                "lake": str(home / "lake"),
            },
            entity_key_serialization_version=3,
        )
    )
    stock.apply(list(build_objects(PROBLEM).values()))
    return stock


def measure_reads(home: Path) -> dict[str, float]:
    """Return microseconds for one request's vector, the median of interleaved rounds of the same requests.

    Of processor time: nothing here waits, and who else is at work is no part of the figure.
    """
    store = open_store(home)
    until = datetime(2013, 7, 1, 17, tzinfo=UTC)
    tables = {table.name: store._lake.read(table.name) for table in PROBLEM.feature_tables}
    store.write_period(tables, Period(YEAR.since, until))
    within = pl.col("decided_at").is_between(until, until + timedelta(hours=1))
    rows = pl.read_parquet(home / "requests.parquet").filter(within).to_dicts()
    joined, alone = write_raw_queries()
    taken: dict[str, list[float]] = {}
    with sqlite3.connect(home / "feast" / "online.db", isolation_level=None) as raw:
        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "raw, one query": lambda row: raw.execute(joined[0], [row[k] for k in joined[1]]).fetchone(),
            "raw, a query a view": lambda row: [
                raw.execute(sql, [row[k] for k in keys]).fetchone() for sql, keys in alone
            ],
            "ours": lambda row: store.read_online([row]),
            "Feast's interface on our store": lambda row: ask_feast(store, row),
        }
        for _ in range(READ_ROUNDS):
            for name, read in ways.items():
                some = rows if "Feast" not in name else rows[:5]
                since = time.thread_time()
                for row in some:
                    read(row)
                taken.setdefault(name, []).append((time.thread_time() - since) / len(some) * 1e6)
    raw.close()
    return {name: statistics.median(times) for name, times in taken.items()}


def write_raw_queries() -> tuple[tuple[str, list[str]], list[tuple[str, list[str]]]]:
    """Return the statements by hand, each with the keys that it takes: all views in one, and one a view."""
    names, joins, keys, alone = [], [], [], []
    for table in PROBLEM.feature_tables:
        columns = [STAMP, *table.features]
        names += [f"{table.name}.{column}" for column in columns]
        same = " and ".join(f"{table.name}.{key} = ?" for key in table.keys)
        joins.append(f"left join perennial_{table.name} {table.name} on {same}")
        keys += table.keys
        only = " and ".join(f"{key} = ?" for key in table.keys)
        sql = f"select {', '.join(columns)} from perennial_{table.name} where {only}"
        alone.append((sql, list(table.keys)))
    return (f"select {', '.join(names)} from (select 1) {' '.join(joins)}", keys), alone


def ask_feast(store: Any, row: dict[str, Any]) -> Any:
    """Return the request's vector as Feast's interface gives it."""
    refs = [f"{table.name}:{name}" for table in PROBLEM.feature_tables for name in table.features]
    entity = {key: row[key] for table in PROBLEM.feature_tables for key in table.keys}
    return store._store.get_online_features(features=refs, entity_rows=[entity]).to_dict()


def _time(work: Callable[[], object]) -> float:
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def main(sizes: Sequence[int]) -> None:
    """Print everything."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        build_home(home)
        for line in run_historical(home, sizes):
            print(json.dumps(line), flush=True)
        rates = {name: round(rate) for name, rate in measure_writes(home).items()}
        print(json.dumps({"rows written online a second": rates}), flush=True)
        reads = {name: round(micros, 1) for name, micros in measure_reads(home).items()}
        print(json.dumps({"one request's vector, microseconds": reads}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main([int(size) for size in sys.argv[1:]] or [1, 10, 30])
