"""Validation of a whole year against plain pandas in one run, and its memory as the rows grow 30 times."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

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
    from expectations.runner import validate

    added, _ = load_year()
    table = next(t for t in PROBLEM.raw if t.name == TABLE)
    frame, suite = added.select(list(table.schema)), find_rules(table)
    pandas = added.to_pandas()
    past = pl.DataFrame(schema={"since": pl.Datetime("us", "UTC")})

    def ours() -> Any:
        return validate(
            frame,
            table,
            YEAR,
            rules=suite,
            add_columns=lambda _: added,
            history=past,
            time_zone=PROBLEM.time_zone,
        )

    found = {f.rule: len(f.rows) for f in ours().failures}
    by_hand = {name: len(rows) for name, rows in run_pandas(pandas, suite).items() if len(rows)}
    yield {
        "name": "validation: rules on which Great Expectations and plain pandas differ, whole year",
        "value": len(set(found.items()) ^ set(by_hand.items())),
        "bar": "0",
        "ok": found == by_hand,
    }
    pairs = [(_time(ours), _time(lambda: run_pandas(pandas, suite))) for _ in range(ROUNDS)]
    ratio = statistics.median(mine / plain for mine, plain in pairs)
    yield {
        "name": f"validation: time for {len(frame):,} rows and {len(suite)} rules, over plain pandas",
        "value": round(ratio, 2),
        "bar": f"<= {MAX_RATIO:g}",
        "ok": ratio <= MAX_RATIO,
        "seconds": [[round(x, 2) for x in pair] for pair in pairs],
    }


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
