"""Validation of a whole year against plain pandas in one run, and its memory as the rows grow 30 times."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl

from expectations.report import Report
from expectations.rules import Rule
from expectations.runner import validate
from feature_repo.problem import PROBLEM
from tests.bench.bench_validate import TABLE, YEAR, find_rules, load_year, run_bench, run_pandas

ROUNDS = 3
MAX_RATIO = 3.0  # to the same rules in plain pandas, which gets its frame ready made
MAX_GROWTH = 3.0  # of peak memory when the rows grow 30 times


def measure() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    yield from _measure_ratio()
    peaks = {line["times"]: line["peak_mb"] for line in run_bench([1, 10, 30], ["ours"])}
    growth = peaks[30] / peaks[1]
    yield {
        "name": "validation: peak memory at 30 times the year's rows, as a multiple of the year's",
        "value": round(growth, 2),
        "bar": f"<= {MAX_GROWTH:g}",
        "ok": growth <= MAX_GROWTH,
        "peak_mb": {times: round(peak) for times, peak in peaks.items()},
    }


def _measure_ratio() -> Iterator[dict[str, Any]]:
    added, _ = load_year()
    suite = find_rules(next(t for t in PROBLEM.raw if t.name == TABLE))
    spoilt = _spoil(added)
    found = {f.rule: list(f.rows) for f in _validate(spoilt, suite).failures}
    by_hand = {
        name: rows.tolist() for name, rows in run_pandas(spoilt.to_pandas(), suite).items() if len(rows)
    }
    differ = {name for name in {*found, *by_hand} if found.get(name) != by_hand.get(name)}
    yield {
        "name": "validation: rules whose failing rows Great Expectations and plain pandas tell differently",
        "value": len(differ),
        "bar": "0",
        "ok": not differ and len(found) > 3,
        "broken_rules": len(found),
    }
    pandas = added.to_pandas()
    pairs = [
        (_time(lambda: _validate(added, suite)), _time(lambda: run_pandas(pandas, suite)))
        for _ in range(ROUNDS)
    ]
    ratio = statistics.median(mine / plain for mine, plain in pairs)
    yield {
        "name": f"validation: time for {len(added):,} rows and {len(suite)} rules, over plain pandas",
        "value": round(ratio, 2),
        "bar": f"<= {MAX_RATIO:g}",
        "ok": ratio <= MAX_RATIO,
        "seconds": [[round(x, 2) for x in pair] for pair in pairs],
    }


def _validate(added: pl.DataFrame, suite: Sequence[Rule]) -> Report:
    # The whole stage, profile included; check columns are made before, for both.
    table = next(t for t in PROBLEM.raw if t.name == TABLE)
    return validate(
        added.select(list(table.schema)),
        table,
        YEAR,
        rules=suite,
        add_columns=lambda _: added,
        history=pl.DataFrame(schema={"since": pl.Datetime("us", "UTC")}),
        time_zone=PROBLEM.time_zone,
    )


def _spoil(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with some rows broken: a value that cannot be, one that is missing, a key twice."""
    row = pl.int_range(pl.len())
    return frame.with_columns(
        carrier=pl.when(row % 5_000 == 0)
        .then(pl.lit("??"))
        .when(row % 7_000 == 0)
        .then(None)
        .otherwise("carrier"),
        air_time=pl.when(row % 3_000 == 0).then(9_999).otherwise("air_time"),
        flight_id=pl.when(row % 9_000 == 1).then(pl.col("flight_id").shift(1)).otherwise("flight_id"),
        _first=pl.when(row % 9_000 == 1).then(pl.lit(value=False)).otherwise("_first"),
    )


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
