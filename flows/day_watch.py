"""The daily watch: whole local days, judged as they end, without the labels that weeks wait for."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from feature_repo.contract import Period, Problem
from feature_repo.lake import Lake
from flows.judgement import monitor_window
from flows.label import Predictions
from flows.policy.incident import EARLY_SIGNS
from flows.policy.trigger import DAY, Trigger, name_length
from flows.project import cut_day
from flows.served import read_champion
from flows.verdicts import TABLE, WindowVerdict, describe, name_window, read_known

DAYS = 7  # days that are looked back on: what an outage of a week left unjudged is made good
JOINED = timedelta(hours=26)  # one well day between odd ones, of 25 hours at most, ends no stretch
ONE_DAY = Trigger(False, (), ("one day: it can alarm, no retrain is decided on it",))
Publish = Callable[[str, str], None]


def list_days(problem: Problem, until: datetime, count: int = DAYS) -> list[Period]:
    """Return the last whole local days before `until`, oldest first: of 23 to 25 hours each."""
    today = until.astimezone(ZoneInfo(problem.time_zone)).date()
    days = [cut_day(problem.time_zone, today - timedelta(days=n)) for n in range(count, 0, -1)]
    return [day for day in days if day.since >= problem.start]


def watch_days(
    lake: Lake,
    journal: Predictions,
    problem: Problem,
    package: Path,
    reports: Path,
    *,
    version: str,
    until: datetime,
    publish: Publish,
) -> tuple[WindowVerdict, ...]:
    """Judge, without labels, each of the last whole days before `until` that has no verdict yet.

    An alarm needs no label; a retrain does, or weeks of drift. The first of a stretch of odd days gets a
    report, which is what a message about them leads to; a run that was killed before it is made good.
    """
    trained, found = read_champion(package, version).trained_until, []
    for day in list_days(problem, until):
        odd, drawn = _read_days(lake, version)
        begins = not any(day.since - JOINED < end <= day.since for end in odd)
        missing = name_window(day, version) not in read_known(lake)
        undrawn = begins and day.until in odd and day.until not in drawn
        if day.until <= trained or not (missing or undrawn) or not is_watched(journal, day, version):
            continue
        verdict = _judge_day(lake, journal, problem, package, day, reports, version)
        if begins and {*EARLY_SIGNS} & {*verdict.alarms}:
            verdict = _judge_day(lake, journal, problem, package, day, reports, version, draw=True)
        publish(f"{problem.name}-day", describe(verdict, ONE_DAY, str(reports)))
        found.append(verdict)
    return tuple(found)


def _judge_day(
    lake: Lake, journal: Predictions, problem: Problem, package: Path, day: Period, reports: Path,
    version: str, draw: bool = False,
) -> WindowVerdict:  # fmt: skip
    return monitor_window(
        lake, journal, problem, package, day, reports=reports, version=version, asof=day.until, draw=draw
    )


def _read_days(lake: Lake, version: str) -> tuple[set[datetime], set[datetime]]:
    """Return the ends of that version's days that were odd, and of those that have a report."""
    odd: set[datetime] = set()
    drawn: set[datetime] = set()
    table = lake.read(TABLE)
    mine = table.filter(model_version=version) if table.width else table
    for row in mine.iter_rows(named=True):
        if name_length(row["window_until"] - row["window_since"]) == DAY:
            odd |= (
                {row["window_until"]} if {*EARLY_SIGNS} & {*json.loads(row.get("alarms") or "[]")} else set()
            )
            drawn |= {row["window_until"]} if row["report"] else set()
    return odd, drawn


def is_watched(journal: Predictions, window: Period, version: str) -> bool:
    """Return whether the window is the version's to be judged by."""
    # A window is a version's if it served in it, or if no champion did though things were asked: that
    # is a failure to tell. What another champion served says nothing about this one.
    answers = journal.read_predictions(window)
    if not len(answers):
        return False
    champions = set(answers.filter(served_by="champion")["model_version"])
    return version in champions or not champions
