"""Validation against the same rules by hand, in plain pandas and in DuckDB, on one table of flights.

    python -m tests.bench.bench_validate [1 10 30]

Prints one JSON object a way and size: seconds and peak memory of a process of its own, from a Parquet file
to the failing rows. Size 1 is the whole year, 336,776 arrivals with their check columns; 10 and 30 repeat it
under other keys. DuckDB runs if it is installed.
"""

import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from expectations import raw, rules
from expectations.profile import is_measure
from expectations.rules import Rule
from feature_repo.contract import Period, RawTable
from feature_repo.problem import PROBLEM
from feature_repo.source import open_source

YEAR = Period(datetime(2012, 12, 30, tzinfo=UTC), datetime(2014, 1, 3, tzinfo=UTC))
TABLE = "arrivals"
WAYS = ("ours", "pandas", "duckdb")


def load_year() -> tuple[pl.DataFrame, RawTable]:
    """Return the year's arrivals with their check columns, and a table that has these."""
    fetch = open_source()
    frame = fetch(TABLE, YEAR).frame
    back = timedelta(days=30)
    frame = raw.add_check_columns(
        TABLE, frame, lambda name, _: fetch(name, Period(YEAR.since - back, YEAR.until)).frame
    )
    table = next(t for t in PROBLEM.raw if t.name == TABLE)
    return frame, replace(table, schema=dict(frame.schema))


def find_rules(table: RawTable) -> list[Rule]:
    """Return the bundled suite's rules on rows, and that the key is unique."""
    suite = [rule for rule in raw.suite(TABLE, YEAR) if not is_measure(rule.columns[0], table)]
    return [*suite, *(rules.unique(column) for column in table.key)]


def run_pandas(frame: Any, suite: Sequence[Rule]) -> dict[str, Any]:
    """Judge by hand in plain pandas: one vectorised expression a rule; return failing positions by rule."""
    return {rule.name: _find_bad(frame, rule).to_numpy().nonzero()[0] for rule in suite}


def _find_bad(frame: Any, rule: Rule) -> Any:
    asked = rule.arguments
    first = frame[rule.columns[0]]
    low, high = asked.get("min_value", -float("inf")), asked.get("max_value", float("inf"))
    match rule.expect:
        case "ExpectColumnValuesToNotBeNull":
            return first.isna()
        case "ExpectColumnValuesToBeNull":
            return first.notna()
        case "ExpectColumnValuesToBeBetween":
            return first.notna() & ~first.between(low, high)
        case "ExpectColumnValuesToBeInSet":
            return first.notna() & ~first.isin(asked["value_set"])
        case "ExpectColumnValuesToMatchRegex":
            return ~first.str.contains(asked["regex"], na=True)
        case "ExpectColumnPairValuesToBeEqual":
            return first != frame[rule.columns[1]]
        case "ExpectColumnPairValuesAToBeGreaterThanB":
            second = frame[rule.columns[1]]
            return first.notna() & second.notna() & (first < second)
        case "ExpectColumnValuesToBeUnique" | "ExpectCompoundColumnsToBeUnique":
            return frame.duplicated(list(rule.columns), keep=False)
        case "ExpectColumnMinToBeBetween" | "ExpectColumnMaxToBeBetween":
            end = first.min() if "Min" in rule.expect else first.max()
            return frame.iloc[:1, 0].isna() | (not low <= end <= high)
    raise NotImplementedError(rule.expect)


def write_sql(suite: Sequence[Rule], file: Path) -> str:
    """Return one DuckDB query that counts the failing rows of every rule in one pass, uniqueness apart."""
    counts, unique = [], []
    for i, rule in enumerate(suite):
        names = [f'"{name}"' for name in rule.columns]
        asked, x = rule.arguments, names[0]
        ends = [f"{x} < {asked['min_value']}"] if "min_value" in asked else []
        ends += [f"{x} > {asked['max_value']}"] if "max_value" in asked else []
        values = ", ".join(repr(v).replace("True", "true") for v in asked.get("value_set", ()))
        bad = {
            "ExpectColumnValuesToNotBeNull": f"{x} is null",
            "ExpectColumnValuesToBeNull": f"{x} is not null",
            "ExpectColumnValuesToBeInSet": f"{x} not in ({values})",
            "ExpectColumnValuesToMatchRegex": f"not regexp_matches({x}, '{asked.get('regex')}')",
            "ExpectColumnPairValuesToBeEqual": f"{x} is distinct from {names[-1]}",
            "ExpectColumnPairValuesAToBeGreaterThanB": f"{x} < {names[-1]}",
        }.get(rule.expect, " or ".join(ends))
        if "Unique" in rule.expect:
            keys = ", ".join(names)
            unique.append(
                f"(select count(*) from (select 1 from t group by {keys} having count(*) > 1)) as r{i}"
            )
        else:
            counts.append(f"count(*) filter (where {bad}) as r{i}")
    return f"with t as (select * from read_parquet('{file}')) select {', '.join([*counts, *unique])} from t"


def run_way(way: str, file: Path) -> dict[str, float]:
    """Judge the file in this process; return seconds, without imports, and peak memory in MB."""
    scan = pl.scan_parquet(file)
    table = next(t for t in PROBLEM.raw if t.name == TABLE)
    table = replace(table, schema=dict(scan.collect_schema()))
    suite = find_rules(table)
    if way == "ours":
        from expectations.runner import judge, validate

        judge(pl.DataFrame({"one": [1]}), [rules.between("one", 0, 2)])  # the imports
        began = time.perf_counter()
        report = validate(
            scan,
            table,
            YEAR,
            rules=suite,
            add_columns=lambda frame: frame,
            history=pl.DataFrame(schema={"since": pl.Datetime("us", "UTC")}),
            time_zone=PROBLEM.time_zone,
        )
        bad = sum(len(failure.rows) for failure in report.failures)
    elif way == "pandas":
        import pandas as pd

        began = time.perf_counter()
        frame = pd.read_parquet(file, columns=sorted({name for rule in suite for name in rule.columns}))
        bad = sum(len(found) for found in run_pandas(frame, suite).values())
    else:
        import duckdb

        began = time.perf_counter()
        found = duckdb.connect().execute(write_sql(suite, file)).fetchone()
        bad = sum(found or ())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "peak_mb": round(peak), "bad": bad}


def write_file(folder: Path, times: int) -> Path:
    """Write the year `times` over, each time under other keys, and return the file."""
    frame, table = load_year()
    file = folder / f"{times}.parquet"
    key = table.key[0]
    copies = (frame.lazy().with_columns(pl.col(key) + f"-{i}") for i in range(times))
    pl.concat(copies).sink_parquet(file, row_group_size=100_000)
    return file


def run_bench(sizes: Sequence[int], ways: Sequence[str] = WAYS) -> Iterator[dict[str, Any]]:
    """Yield seconds and peak memory of each way at each size, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for times in sizes:
            # In a process of its own too, so that the files of large sizes do not need this one's memory.
            _call("write", folder, str(times))
            file = Path(folder) / f"{times}.parquet"
            rows = pl.scan_parquet(file).select(pl.len()).collect().item()
            for way in ways:
                if way != "duckdb" or importlib.util.find_spec("duckdb"):
                    told = json.loads(_call("run", way, str(file)).splitlines()[-1])
                    yield {"way": way, "times": times, "rows": rows, **told}
            file.unlink()


def _call(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.bench_validate", *arguments]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder, times]:
            write_file(Path(folder), int(times))
        case ["run", way, file]:
            print(json.dumps(run_way(way, Path(file))))
        case sizes:
            for line in run_bench([int(size) for size in sizes] or [1, 10, 30]):
                print(json.dumps(line), flush=True)
