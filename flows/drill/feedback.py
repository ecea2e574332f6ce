"""Feedback lost: outcomes stop in the middle of a week, and all of them come days too late."""

from datetime import timedelta
from typing import TYPE_CHECKING

from flows.drill.incident import Curve, Diary
from flows.manifests import STOPPED
from flows.monitor import POLICY, list_windows

if TYPE_CHECKING:
    from feature_repo.contract import Period
    from flows.drill.stage import Day, Stage
    from flows.verdicts import WindowVerdict

TABLE = "arrivals"
LEFT = 2  # days of the week that stay without outcomes


def inject(stage: "Stage", diary: Diary) -> None:
    """Hold the outcomes back until the week is due to be judged; then let them come."""
    window, horizon = _find_window(stage), stage.project.problem.horizon
    due, days = window.until + horizon, []
    # Days and weeks begin an hour apart once clocks were put forward.
    stop = window.until - timedelta(days=LEFT, hours=2)
    while stage.now < due:
        if stage.now >= stop and not stage.feed.held:
            stage.feed.held.add(TABLE)
            diary.inject("no outcome comes any more", stage.now)
        days.append(stage.play_day(per_day=150 if stage.now < window.until else 40))
        _note_stop(diary, days[-1])
    judged = _find_verdict(days[-1], window)
    told = "; ".join(judged.quality.reasons) if judged else "no verdict"
    if diary.require(judged and judged.quality.state == "unknown", f"quality of the week: {told}"):
        diary.notice("monitor, labels that have arrived", told, due)
        asked = any(day.findings.asked for day in days)
        diary.answer(
            "monitor", "gave no verdict on quality" + ("" if asked else ", and asked for no retrain"), due
        )
    _let_come(stage, diary, window, days)


def _note_stop(diary: Diary, day: "Day") -> None:
    stopped = [m for m in day.manifests if m.table == TABLE and m.status == STOPPED]
    known = any(mark.by == "ingest" for mark in diary.marks)
    if stopped and not known:
        diary.notice("ingest", f"batch stopped: {stopped[0].reasons}", day.period.until)


def _let_come(stage: "Stage", diary: Diary, window: "Period", days: "list[Day]") -> None:
    stage.feed.held.discard(TABLE)
    diary.mend("the feed works again, and sends all that it held back", stage.now)
    day = stage.play_day(per_day=40)
    days.append(day)
    landed = [m for m in day.manifests if m.table == TABLE and m.status != STOPPED]
    labelled = day.labels["labelled"]
    if diary.require(landed and labelled, f"{labelled} outcomes joined after the feed came back"):
        told = (
            f"took in what was late in one batch, from {landed[0].since:%d %b}; {labelled} answers labelled"
        )
        diary.answer("ingest and label", told, day.period.until)
    findings = stage.watch(day.period.until, again=True)
    found = [v for v in findings.verdicts if v.window == window]
    quality = found[0].quality if found else None
    why = "; ".join(quality.reasons) if quality else "no verdict"
    if diary.require(quality and quality.state != "unknown", f"the week judged again: {why}"):
        share = f"{quality.arrived:.0%} of the labels" if quality else ""
        diary.recover("monitor", f"{share}: {why}", day.period.until)
    points = [(d.period.until, float(d.labels["labelled"])) for d in days]
    diary.curves.append(Curve("answers that got their outcome", "a day", tuple(points)))


def _find_window(stage: "Stage") -> "Period":
    """Return the first window that still has three days to come."""
    problem, ahead = stage.project.problem, stage.now + timedelta(days=3)
    later = ahead + problem.horizon + POLICY.window
    return next(w for w in list_windows(problem, later) if w.until >= ahead)


def _find_verdict(day: "Day", window: "Period") -> "WindowVerdict | None":
    return next((v for v in day.findings.verdicts if v.window == window), None)
