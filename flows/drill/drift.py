"""Data drift: a model of January and February meets July. Nobody asked in between: a season is skipped."""

from datetime import date
from typing import TYPE_CHECKING

from feature_repo.errors import StackError
from flows.drill.incident import Curve, Diary
from flows.drill.stage import take_in
from flows.played import await_retrain, list_retrains

if TYPE_CHECKING:
    from flows.drill.stage import Day, Stage
    from flows.verdicts import WindowVerdict

SUMMER = date(2013, 7, 2)  # a Tuesday, as windows begin on
PER_DAY = 150
LONGEST = 18  # days until two weeks have their labels, and some
RETRAIN_SECONDS = 300


def inject(stage: "Stage", diary: Diary) -> None:
    """Skip to July, ask on, and follow what the monitor's verdicts lead to."""
    stage.tell("taking in spring, in which nobody asks")
    take_in(stage.project, stage.now, stage.project.day(SUMMER).since)
    before, known = stage.champion, list_retrains()
    diary.inject(f"requests of July to version {before}, which learnt from January and February", stage.now)
    days: list[Day] = []
    while not (days and days[-1].findings.asked) and len(days) < LONGEST:
        days.append(stage.play_day(PER_DAY))
        _note_alarm(diary, days[-1])
    _draw(diary, days)
    trigger = days[-1].findings.trigger
    if not diary.require(days[-1].findings.asked, f"no retrain was asked for: {'; '.join(trigger.reasons)}"):
        return
    # The champion's age may ask where what drifted weighs little: the drift itself must have been seen.
    weeks = [verdict for day in days for verdict in day.findings.verdicts]
    far = {name for verdict in weeks for name in _list_far(verdict)}
    told = f"{', '.join(sorted(far)) or 'no input'} moved far, {len(weeks)} weeks judged"
    if not diary.require(far, f"no week's verdict found drift: {told}"):
        return
    diary.notice("monitor, verdict on the week", told, stage.now)
    causes = f"{', '.join(trigger.causes)}: {trigger.reasons[0]}"
    diary.answer("monitor", f"sent the event that asks for a retrain; {causes}", stage.now)
    _follow(stage, diary, before, known, far)


def _list_far(verdict: "WindowVerdict") -> set[str]:
    """Return the inputs that surely moved far in a window."""
    return {column.name for column in verdict.drift.columns if column.level == "large"}


def _note_alarm(diary: Diary, day: "Day") -> None:
    alarms = [s for one in day.findings.days for s in one.signals if s.state == "alarm"]
    if alarms and not any(mark.by.startswith("monitor, verdict on the day") for mark in diary.marks):
        diary.notice("monitor, verdict on the day", alarms[0].reason, day.period.until)


def _follow(stage: "Stage", diary: Diary, before: int, known: set[str], far: set[str]) -> None:
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
    diary.answer("gate, release", f"version {after} beat version {before} on newer days and took over")
    if not diary.require(seconds is not None, f"not every worker followed to version {after}"):
        return
    day = stage.play_day(PER_DAY)
    [*_, verdict] = day.findings.days or (None,)
    still = sorted(far & _list_far(verdict)) if verdict else []
    told = f"of what had moved far, {', '.join(still) or 'nothing'} still did" if verdict else "no verdict"
    if diary.require(verdict and not still, f"the first day of version {after}: {told}"):
        diary.recover("monitor", f"first day of version {after}, in every worker: {told}", day.period.until)


def _draw(diary: Diary, days: "list[Day]") -> None:
    windows = [verdict for day in days for verdict in day.findings.days]
    points = [(v.window.until, float(len(_list_far(v)))) for v in windows]
    diary.curves.append(Curve("inputs that moved far", "columns, by day", tuple(points)))
