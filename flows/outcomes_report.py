"""What `perennial outcomes` shows: the fate of all that was told, the maturity curve, and samples."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from feature_repo.contract import Period
from flows.label import as_asked
from flows.outcomes import INSTANT
from flows.outcomes_kept import EVER, LABELS, count_fates, read_kept, read_looked
from flows.outcomes_maturity import Point, draw_maturity
from flows.project import Project

BACK = 10  # horizons of answers that the curve is drawn from


@dataclass(frozen=True)
class OutcomeReport:
    """Outcomes as they stand.

    until     logical time up to which they were labelled
    fates     by who told them ("source", "api"): how many met each fate
    waiting   told to the service, and known only after `until`: not looked at yet
    curve     share of labels arrived by age, of things asked about in the last BACK horizons
    sample    the newest outcomes of the fate that was asked for
    """

    until: datetime
    fates: dict[str, dict[str, int]]
    waiting: int
    curve: tuple[Point, ...]
    sample: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; ages in hours."""
        curve = [
            {
                "age_hours": p.age.total_seconds() / 3600,
                "asked": p.asked,
                "arrived": p.arrived,
                "share": p.share,
            }
            for p in self.curve
        ]
        return {**asdict(self), "until": self.until.isoformat(), "curve": curve}


def report_outcomes(project: Project, fate: str = "", last: int = 20) -> OutcomeReport:
    """Gather the report; with `fate` its newest outcomes too."""
    kept, looked = read_kept(project.lake), read_looked(project.lake)
    fates = {via: count_fates(part) for (via,), part in sorted(kept.group_by("via"))}
    chosen = kept.filter(fate=fate).sort("known_at", "thing", descending=[True, False]).head(last)
    return OutcomeReport(
        until=looked.until,
        fates={str(via): counted for via, counted in fates.items()},
        waiting=len(
            project.journal.read_outcomes(Period(looked.until, datetime.max.replace(tzinfo=EVER.tzinfo)))
        ),
        curve=_draw(project, looked.until),
        sample=tuple(chosen.to_dicts()) if fate else (),
    )


def _draw(project: Project, until: datetime) -> tuple[Point, ...]:
    problem = project.problem
    empty: dict[str, Any] = {"entity": pl.String, "known_at": INSTANT}
    since = max(EVER, until - BACK * problem.horizon) if until > EVER else EVER
    asked = as_asked(project.journal.read_predictions(Period(since, until)))
    labels = project.lake.read(LABELS, Period(since, until), by="known_at")
    return draw_maturity(
        asked, labels if labels.width else pl.DataFrame(schema=empty), problem.horizon, until
    )
