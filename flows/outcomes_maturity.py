"""The maturity curve: of the things asked about, what share had its label at which age."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

# Ages in parts of the horizon: labels are mature at 1; what comes later is late.
PARTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Point:
    """Of `asked` things that were asked about at least `age` ago, `arrived` had their label by that age."""

    age: timedelta
    asked: int
    arrived: int

    @property
    def share(self) -> float | None:
        """The share that had arrived; None if nothing is that old yet."""
        return self.arrived / self.asked if self.asked else None


def draw_maturity(
    asked: pl.DataFrame, labels: pl.DataFrame, horizon: timedelta, asof: datetime
) -> tuple[Point, ...]:
    """Return the curve as it stands at `asof`.

    asked   `entity`, `requested_at`: the first of each thing counts
    labels  `entity`, `known_at`: the first of each thing counts

    What was asked too lately to be of an age says nothing about it, and is left out there.
    """
    first = asked.group_by("entity").agg(pl.col("requested_at").min())
    known = labels.filter(pl.col("known_at") < asof).group_by("entity").agg(pl.col("known_at").min())
    ages = first.join(known, on="entity", how="left").select(
        old=pl.lit(asof) - pl.col("requested_at"), waited=pl.col("known_at") - pl.col("requested_at")
    )
    points = []
    for part in PARTS:
        age = part * horizon
        there = ages.filter(pl.col("old") >= age)
        points.append(Point(age, len(there), there.filter(pl.col("waited") <= age).height))
    return tuple(points)
