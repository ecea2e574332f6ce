"""Silent failure: requests that the model does not know, and stored values that are not there."""

import random
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx

from feature_repo.errors import PerennialError
from flows.drill.incident import Diary
from flows.drill.online import drop_rows

if TYPE_CHECKING:
    from flows.drill.stage import Day, Stage
    from services.dead_letters import Replay
    from services.journal_records import KeptLetter

KILOMETRES = 1.609344
MOST_ODD = 0.01  # of a day's answers: categories and numbers that no training saw
INJECTED = 13  # o'clock UTC of the day: the morning of the clients
LETTER_SECONDS = 5.0
VIEW, KEYS = "airport_weather", {"origin": "JFK"}


def inject(stage: "Stage", diary: Diary) -> None:
    """Send what no training saw, see that it is told, mend it, and send again what it left behind."""
    noon = stage.now.replace(hour=INJECTED)

    def disturb(hour: datetime) -> bool:
        if hour == noon:
            _send_all(stage, diary, hour)
        return True

    diary.inject("a client states all distances of a day in kilometres", stage.now)
    day = stage.play_day(per_day=400, change=_to_kilometres, on_hour=disturb)
    alarms = [one for one in day.findings.days if one.alarms]
    if diary.require(alarms, "no day's verdict alarmed at distances in kilometres"):
        told = "; ".join(s.reason for one in alarms for s in one.signals if s.state == "alarm")
        diary.notice("monitor, verdict on the day", told, day.period.until)
    diary.mend("the clients were corrected")
    _check_well(diary, stage.play_day(per_day=400))


def _check_well(diary: Diary, day: "Day") -> None:
    """See that inputs are known again: by the day's own verdict, and no flag of the injected kinds."""
    flagged, served = sum(day.flags.values()), sum(day.served.values())
    told = f"the day after, {flagged} of {served} answers were flagged"
    states = {s.name: s.state for one in day.findings.days for s in one.signals}
    odd = day.flags["unseen"] + day.flags["out_of_range"]  # real days have a new destination at times
    known = states.get("flagged inputs") == "ok" and odd <= MOST_ODD * served
    if diary.require(known, f"{told}: {dict(day.flags)}, {states}"):
        diary.recover("monitor, verdict on the day", f"{told}; inputs are known again", day.period.until)


def _to_kilometres(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "distance": round(body["distance"] * KILOMETRES)}


def _send_all(stage: "Stage", diary: Diary, hour: datetime) -> None:
    before = {letter.id for letter in _list_letters(stage)}  # real days have a new flight number at times
    for told, bodies, kind in _list_bad(stage, hour):
        diary.inject(f"{len(bodies)} requests: {told}", hour)
        answers = stage.post(bodies)
        found = [a for a in answers if any(flag["kind"] == kind for flag in a["flags"])]
        what = f"{len(found)} of {len(bodies)} answers flagged {kind}"
        if diary.require(len(found) == len(bodies), f"{told}: {what}"):
            diary.notice("service, contract check", what, hour)
        if answers:
            by = sorted({a["served_by"] for a in answers})
            diary.answer("service", f"answered all {len(answers)} from {', '.join(by)}", hour)
    _send_malformed(stage, diary, hour)
    _mend(stage, diary, hour, before)


def _list_letters(stage: "Stage") -> "list[KeptLetter]":
    from services.journal import LetterFilter

    return list(stage.project.journal.find_dead_letters(LetterFilter(waiting=True)))


def _await_letters(stage: "Stage", before: set[int], wanted: set[str]) -> "list[KeptLetter]":
    """Return the letters since, once all kinds are there: a refusal does not wait for its letter's disk."""
    until = time.monotonic() + LETTER_SECONDS
    while True:
        letters = [letter for letter in _list_letters(stage) if letter.id not in before]
        if wanted <= {letter.kind for letter in letters} or time.monotonic() > until:
            return letters
        time.sleep(0.05)


def _list_bad(stage: "Stage", hour: datetime) -> Iterator[tuple[str, list[dict[str, Any]], str]]:
    """Yield what is wrong, requests that are so, and the flag that each answer must bear."""
    pool = stage.load.pool
    bodies = random.Random(stage.seed).sample(pool, len(pool))
    yield "an airline that no training saw", [{**b, "carrier": "ZZ"} for b in bodies[:20]], "unseen"
    yield "a distance of 19,999 miles", [{**b, "distance": 19_999} for b in bodies[:20]], "out_of_range"
    gone = drop_rows(stage.project, VIEW, KEYS)
    local = [b for b in bodies if b["origin"] == KEYS["origin"]][:20]
    yield (
        f"about {KEYS['origin']}, whose weather ({gone} row) is gone from the online store",
        local,
        "missing",
    )


def _send_malformed(stage: "Stage", diary: Diary, hour: datetime) -> None:
    body = {k: v for k, v in stage.load.pool[0].items() if k != "distance"}
    diary.inject("a request without a distance", hour)
    answer = httpx.post(f"{stage.url}/predict", json=body, timeout=30)
    told = answer.json().get("error", {}) if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY else {}
    if diary.require(
        "distance" in str(told.get("field")), f"a request without a distance: {answer.text[:200]}"
    ):
        diary.notice("service, schema", f"refused with 422, naming {told['field']}", hour)


def _mend(stage: "Stage", diary: Diary, hour: datetime, before: set[int]) -> None:
    """Make the store whole from the lake, and send again what it left behind; malformed stays refused."""
    from flows.features import refresh_online

    wanted = {"malformed", "missing", "out_of_range", "unseen"}
    letters = _await_letters(stage, before, wanted)
    kinds = sorted({letter.kind for letter in letters})
    if diary.require(wanted <= {*kinds}, f"dead letters only of {', '.join(kinds) or 'no kind'}"):
        diary.notice("service, dead letters", f"{len(letters)} kept: {', '.join(kinds)}", hour)
    rows = refresh_online(stage.project)
    diary.mend(f"the online store was filled anew from the lake: {rows} rows", hour)
    told = list(_replay(stage, [letter.id for letter in letters if letter.kind == "missing"]))
    answered = [one for one in told if one.status == "answered"]
    what = f"{len(answered)} of {len(told)} letters answered without a flag"
    if diary.require(told and len(answered) == len(told), what):
        diary.answer("dead letters", f"sent again: {what}", hour)


def _replay(stage: "Stage", ids: list[int]) -> "Iterator[Replay]":
    from flows.cli.dead_letters import build_checks, reach_service
    from services.dead_letters import replay_letters
    from services.journal import Journal

    folder = stage.settings.home / "journal"
    try:
        with Journal(folder / "journal.db") as journal, reach_service(stage.settings) as send:
            yield from replay_letters(journal, ids, folder / "replay.lock", build_checks(), send)
    except PerennialError as error:
        stage.failed.append(str(error))
