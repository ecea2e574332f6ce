"""Batch rules from the batch's own past: what a table's earlier batches say that the next may be.

Two limits a measure. Beyond the near one a batch is told of (`warning`), beyond the far one it stops.
Every limit stands as far out as the bundled year 2013 asks for, and then some. Seen there at most, of the
batches that the suite lets through, and the limits:

measure      unit                                           seen           near          far
rows         ratio to the median of the same weekday        0.43 to 1.25   0.74 to 1.35  0.3 to 2
age_hours    hours above the median                         6.5            3             9
null_share   log-odds beyond the window's extremes          -1.8 to 2.0    1.5           -4.5 to 4.5
  rising     Kendall's tau of 14 batches that rose by 5%    0.71                         0.8
distinct     ratio to the median                            0.42 to 1.10   0.6 to 1.5    0.25 to 3
p50          ranges beyond the window's extremes            2.7            2             4
p05, p95     the same                                       4.4            2.5           6

What was seen furthest out of rows, distinct and quantiles was a blizzard that closed the airports on 8 and
9 February. No batch passes a far limit; 17 of 1,460 (1.2%) pass a near one: fewer flights before and at
Thanksgiving and Christmas (9), the blizzard (3), snow on 8 March (2), and three days on which the last
hours' weather is missing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from expectations.rules import Rule, measured
from feature_repo.contract import Period, RawTable

WINDOW = 56  # batches that a batch is held against: eight weeks
FEWEST_WEEKDAYS = 2  # below this many of the same weekday, all days count
FEWEST = 14  # below this many earlier batches the past says nothing
DAY = (0.9, 1.1)  # what counts as a batch of a day, in days; the clock changes make 23 and 25 hours
# Near and far limits as shares of the median: low, high, far low, far high.
ROWS = (0.74, 1.35, 0.3, 2.0)
DISTINCT = (0.6, 1.5, 0.25, 3.0)
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Where a measure may lie: between the near limits quietly, between the far ones at all."""

    low: float | None = None
    high: float | None = None
    far_low: float | None = None
    far_high: float | None = None


def rules_from_history(table: RawTable, history: pl.DataFrame, period: Period, time_zone: str) -> list[Rule]:
    """Return batch rules for a batch of about a day, from earlier batches of about a day; else none.

    history   columns batch_id, since, until, measure, value; a batch a period, any order
    """
    known = _batches(history, period) if _is_day(period.since, period.until) else history.clear()
    days = known["since"].unique().sort()
    if len(days) < FEWEST:
        return []
    grouped = known.group_by("measure", maintain_order=True).agg("value")
    past = {str(measure): np.array(values) for measure, values in grouped.iter_rows()}
    words = f"{len(days)} earlier days"
    rules = _volume(known.filter(pl.col("measure") == "rows"), period, time_zone)
    for measure in past:
        rules += _rules(measure, _limits(measure, past), words)
    return rules


def _batches(history: pl.DataFrame, period: Period) -> pl.DataFrame:
    # Measures of the last batches of a day before this one, oldest first.
    length = (pl.col("until") - pl.col("since")).dt.total_seconds() / 86_400
    known = history.filter((pl.col("until") <= period.since) & length.is_between(*DAY))
    days = known["since"].unique().sort().tail(WINDOW)
    return known.filter(pl.col("since") >= days[0]).sort("since", maintain_order=True) if len(days) else known


def _volume(rows: pl.DataFrame, period: Period, time_zone: str) -> list[Rule]:
    local = period.since.astimezone(ZoneInfo(time_zone))
    weekday = pl.col("since").dt.convert_time_zone(time_zone).dt.weekday()
    same = rows.filter(weekday == local.isoweekday())
    words = f"{len(same)} earlier {local:%A}s"
    if len(same) < FEWEST_WEEKDAYS:
        same, words = rows, f"{len(rows)} earlier days"
    return list(_rules("rows", _ratio(same["value"].to_numpy(), *ROWS), words))


def _limits(measure: str, past: Mapping[str, Values]) -> Limits | None:
    values, kind = past[measure], measure.rpartition(".")[2]
    if len(values) < FEWEST:
        return None
    if kind in {"p05", "p50", "p95"}:
        return _quantile(measure, past)
    if kind == "distinct":
        return _ratio(values, *DISTINCT)
    return {"age_hours": _freshness, "null_share": _share}.get(kind, lambda _: None)(values)


def _ratio(values: Values, low: float, high: float, far_low: float, far_high: float) -> Limits | None:
    """Limits as shares of the median; the near ones give way to a past that is wilder than that.

    One or two less, or more, of a few is nothing.
    """
    middle = float(np.median(values))
    if middle <= 0:
        return None
    noise = 6 * 1.4826 * float(np.median(np.abs(np.log(np.maximum(values, 1) / middle))))
    near_low = max(min(low, float(np.exp(-noise))), far_low)
    near_high = min(max(high, float(np.exp(noise))), far_high)
    near = min(middle * near_low, middle - 2.5), max(middle * near_high, middle + 2.5)
    return Limits(*near, middle * far_low, max(middle * far_high, middle + 5))


def _freshness(values: Values) -> Limits:
    middle = float(np.median(values))
    return Limits(high=middle + 3, far_high=middle + 9)


def _share(values: Values) -> Limits:
    """Limits in log-odds, so that 0.1% to 1% is as far as 50% to 90%; 2% is as good as none.

    Nulls that creep up stay near any window that moves with them. A share that rose all through the last
    batches is therefore held against what it was before it rose.
    """
    floor, steps = 0.02, values[-FEWEST:]
    low, high = float(values.min()), float(values.max())
    before = float(np.median(steps[:3]))
    if np.median(steps[-3:]) - before >= 0.05 and _tau(steps) >= 0.8:
        return Limits(high=before + 0.02, far_high=before + 0.05)
    limits = (_chance(_odds(max(high, floor)) + step) for step in (1.5, 4.5))
    near, far = (limit if high < 0.9 else None for limit in limits)
    return Limits(high=near, far_high=far, far_low=_chance(_odds(low) - 4.5) if low > 0.2 else None)


def _quantile(measure: str, past: Mapping[str, Values]) -> Limits | None:
    """Limits in ranges beyond the window's own extremes.

    A column that is the same all through most batches (a date's year) or holds two values only is not
    judged: its quantiles jump by nature.
    """
    column, _, kind = measure.rpartition(".")
    low, high, values = past[f"{column}.p05"], past[f"{column}.p95"], past[measure]
    if np.median(high - low) == 0 or len(np.unique(np.concatenate([low, values, high]))) <= 2:
        return None
    span = max(values.max() - values.min(), 0.1 * (high.max() - low.min()))
    near, far = (2.0, 4.0) if kind == "p50" else (2.5, 6.0)
    least, most = float(values.min()), float(values.max())
    return Limits(least - near * span, most + near * span, least - far * span, most + far * span)


def _rules(measure: str, limits: Limits | None, words: str) -> Iterator[Rule]:
    if limits is None:
        return
    if limits.low is not None or limits.high is not None:
        yield measured(measure, limits.low, limits.high, f"after {words}", severity="warning")
    if limits.far_low is not None or limits.far_high is not None:
        yield measured(measure, limits.far_low, limits.far_high, f"after {words}")


def _tau(values: Values) -> float:
    """Return Kendall's tau against time: 1 if each value is above all before it."""
    after = np.sign(values[None, :] - values[:, None])
    pairs = len(values) * (len(values) - 1) / 2
    return float(after[np.triu_indices(len(values), 1)].sum() / pairs)


def _odds(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return float(np.log(share / (1 - share)))


def _chance(odds: float) -> float:
    return float(1 / (1 + np.exp(-odds)))


def _is_day(since: datetime, until: datetime) -> bool:
    return DAY[0] <= (until - since).total_seconds() / 86_400 <= DAY[1]
