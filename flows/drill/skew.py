"""Training-serving skew: a value online that is not the lake's, and a store that nobody brings up to date."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from feature_repo.contract import Period
from feature_repo.errors import NotEnoughData
from flows.drill.incident import Curve, Diary
from flows.drill.online import change_values

if TYPE_CHECKING:
    from flows.drill.stage import Stage
    from flows.skew import SkewReport

VIEW, FEATURE, FORMULA = "airport_weather", "temp", "(x - 32) / 1.8"
CHANGED, STALE, FRESH = 13, 15, 22  # o'clock UTC: values change; the store stops; it is brought up to date
HOUR = timedelta(hours=1)


def inject(stage: "Stage", diary: Diary) -> None:
    """Change a feature on the online side alone, then leave the store stale; let the probe find both."""
    project = stage.project
    day = project.day(project.local_day(stage.now))
    changed, stale, fresh = (day.since.replace(hour=n) for n in (CHANGED, STALE, FRESH))

    def feed(hour: datetime) -> bool:
        if hour == stale:
            diary.inject(f"from {stale:%H:%M} to {fresh:%H:%M} no features go online", hour)
        return not stale <= hour < fresh

    def alter(hour: datetime) -> None:
        if hour == changed:
            rows = change_values(project, VIEW, FEATURE, FORMULA)
            diary.inject(f"{FEATURE} of {rows} airports in Celsius online, in Fahrenheit in the lake", hour)

    played = stage.play_day(per_day=400, on_hour=feed, after_hour=alter)
    expired = played.flags["expired"]
    if diary.require(expired, "no answer was flagged expired while the store was stale"):
        diary.notice(
            "service, age of values", f"{expired} answers flagged expired, no such value used", fresh
        )
        told = ", ".join(f"{who} {n}" for who, n in played.served.items())
        diary.answer("service", f"answered all the same: {told}", fresh)
    _probe_parts(stage, diary, changed, stale, fresh, day.until)


def _probe_parts(
    stage: "Stage", diary: Diary, changed: datetime, stale: datetime, fresh: datetime, until: datetime
) -> None:
    points = []
    for since, end, what in (
        (changed, changed + HOUR, "the changed values"),
        (stale, fresh, "the stale store"),
    ):
        report = _probe(stage, Period(since, end))
        told = report.verdict.reasons if report else ()
        if diary.require(report and not report.verdict.ok, f"the skew probe did not notice {what}"):
            diary.notice("skew probe", "; ".join(told[:2]), end)
    diary.answer("hourly ingest", "each next tick overwrote what was wrong or old online", fresh)
    report = _probe(stage, Period(fresh, until))
    if diary.require(
        report and report.verdict.ok, "the skew probe still finds wrong values after the store is fresh"
    ):
        diary.recover("skew probe", report.verdict.reasons[0], until)  # type: ignore[union-attr]
    hour = changed - 3 * HOUR
    while hour < until:
        report = _probe(stage, Period(hour, min(hour + HOUR, until)))
        if report and report.verdict.compared:
            points.append((hour, report.verdict.mismatched / report.verdict.compared))
        hour += HOUR
    diary.curves.append(Curve("served values that are not the lake's", "share", tuple(points)))


def _probe(stage: "Stage", period: Period) -> "SkewReport | None":
    from services.schemas import build_wire

    try:
        return stage.defences.probe(stage.project, build_wire(stage.project.problem), period)
    except NotEnoughData:
        return None
