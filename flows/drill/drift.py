"""Data drift: a model of January and February meets June. Nobody asked in between: a season is skipped."""

from datetime import date
from typing import TYPE_CHECKING

from feature_repo.errors import StackError
from flows.drill.incident import Curve, Diary
from flows.drill.stage import take_in
from flows.played import await_retrain, list_retrains

if TYPE_CHECKING:
    from flows.drill.stage import Day, Stage

SUMMER = date(2013, 6, 4)  # a Tuesday, as windows begin on
PER_DAY = 150
LONGEST = 18  # days until two weeks have their labels, and some
RETRAIN_SECONDS = 300


def inject(stage: "Stage", diary: Diary) -> None:
    """Skip to June, ask on, and follow what the monitor's verdicts lead to."""
    stage.tell("taking in spring, in which nobody asks")
    take_in(stage.project, stage.now, stage.project.day(SUMMER).since)
    before, known = stage.champion, list_retrains()
    diary.inject(f"requests of June to version {before}, which learnt from January and February", stage.now)
    days: list[Day] = []
    while not (days and days[-1].findings.asked) and len(days) < LONGEST:
        days.append(stage.play_day(PER_DAY))
        _note_alarm(diary, days[-1])
    _draw(diary, days)
    trigger = days[-1].findings.trigger
    if not diary.require(days[-1].findings.asked, f"no retrain was asked for: {'; '.join(trigger.reasons)}"):
        return
    # The champion's age may ask a week before two weeks of drift do: the drift itself must have been seen.
    weeks = [v for day in days for v in day.findings.verdicts]
    told = "; ".join(f"{v.drift.drifted_importance:.0%} of the weight drifted" for v in weeks)
    if not diary.require(
        any("drift" in v.breaches for v in weeks), f"no week's verdict found drift: {told or 'no verdict'}"
    ):
        return
    diary.notice("monitor, verdict on the week", told, stage.now)
    causes = f"{', '.join(trigger.causes)}: {trigger.reasons[0]}"
    diary.answer("monitor", f"sent the event that asks for a retrain; {causes}", stage.now)
    _follow(stage, diary, before, known)


def _note_alarm(diary: Diary, day: "Day") -> None:
    alarms = [s for one in day.findings.days for s in one.signals if s.state == "alarm"]
    if alarms and not any(mark.by.startswith("monitor, verdict on the day") for mark in diary.marks):
        diary.notice("monitor, verdict on the day", alarms[0].reason, day.period.until)


def _follow(stage: "Stage", diary: Diary, before: int, known: set[str]) -> None:
    stage.tell("waiting for the retrain that the automation runs")
    try:
        run = await_retrain(known, RETRAIN_SECONDS)
    except StackError as error:
        diary.require(False, str(error))
        return
    after = stage.champion
    diary.answer("automation", f"ran the deployment retrain: {run['state']}")
    if not diary.require(
        run["state"] == "Completed" and after != before, f"retrain {run['state']}, not promoted"
    ):
        return
    seconds = stage.await_champion(after)
    diary.answer("gate, release", f"version {after} beat version {before} on 14 newer days and took over")
    if not diary.require(seconds is not None, f"not every worker followed to version {after}"):
        return
    day = stage.play_day(PER_DAY)
    [*_, verdict] = day.findings.days or (None,)
    told = f"weight of drifted features {verdict.drift.drifted_importance:.0%}" if verdict else "no verdict"
    if diary.require(
        verdict and "drift" not in verdict.breaches, f"the first day of version {after}: {told}"
    ):
        diary.recover("monitor", f"first day of version {after}, in every worker: {told}", day.period.until)


def _draw(diary: Diary, days: "list[Day]") -> None:
    points = [(v.window.until, v.drift.drifted_importance) for day in days for v in day.findings.days]
    diary.curves.append(Curve("weight of the features that drifted", "share, by day", tuple(points)))
