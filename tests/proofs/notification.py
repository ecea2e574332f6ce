"""One message an incident and one all-clear, at a real webhook behind a block of a real Prefect server.

A process judges day after day, and each week two days after its end, as the loop does; it tells what there
is to tell, twice each, while a second one looks at the same verdicts. In the first part both run to their
end. In the second the process is killed with SIGKILL at random moments and started again, and the webhook
refuses every seventh message. What the webhook took, answered by 200, is compared with the incidents that
the verdicts were made of.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from feature_repo.lake import Lake
from feature_repo.settings import Settings
from tests.incidents import day_key_of, judge, judge_days, key_of, receiving, save_block
from tests.ports import find_free_port

INCIDENTS = 8  # of weeks; those of days come on top
KILLS = 20
AGAIN = 2  # looks at each week's verdicts
LATE = 2  # days after its end on which a week is judged
SEED = 6
LIMIT = 600.0  # seconds that a part may take
Figure = dict[str, Any]
Said = list[tuple[str, str]]


def measure(incidents: int = INCIDENTS, kills: int = KILLS) -> Iterator[Figure]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory() as folder, _prefect(Path(folder) / "prefect") as settings:
        weeks, opened = _draw(incidents)
        days, odd = _draw_days(7 * len(weeks) + LATE)
        keys = [*(key_of(week) for week in opened), *(day_key_of(day) for day in odd)]
        wanted = Counter((f"toy/{key}", kind) for key in keys for kind in ("opened", "cleared"))
        weeks = f"{weeks}/{days}"
        said, _ = _run(settings, Path(folder) / "calm", weeks, kills=0)
        yield from _judge(f"{AGAIN} looks at each week by two processes", said, wanted)
        exact = Counter(said) == wanted
        yield _figure(
            "notification: every incident told exactly once",
            exact,
            f"true for {incidents} incidents of weeks and {len(odd)} of days",
            exact,
        )
        said, killed = _run(settings, Path(folder) / "killed", weeks, kills)
        yield _figure("notification: kill -9 of the telling process", killed, f"{kills}", killed == kills)
        yield from _judge(f"{killed} kills and a webhook that refuses every 7th", said, wanted)
        copies = len(said) - len(set(said))
        bar = "at most one a kill, each under the id of the first"
        yield _figure("notification: copies after a kill", copies, bar, copies <= killed)


def _judge(how: str, said: Said, wanted: Counter[tuple[str, str]]) -> Iterator[Figure]:
    told = set(said)
    for kind, name in (("opened", "messages"), ("cleared", "all-clears")):
        due = {mark for mark in wanted if mark[1] == kind}
        value = f"{len(due & told)} of {len(due)}"
        yield _figure(f"notification: incidents with {name}, {how}", value, "all", due <= told)
    yield _figure(
        f"notification: messages about nothing, {how}", len(told - set(wanted)), "0", told <= set(wanted)
    )
    early = sum(
        kind == "cleared" and (incident, "opened") not in said[:n] for n, (incident, kind) in enumerate(said)
    )
    yield _figure(f"notification: all-clears before their message, {how}", early, "0", not early)


def _draw(incidents: int) -> tuple[str, list[int]]:
    """Return weeks of verdicts with that many incidents in them, and the week in which each opens."""
    rng, weeks, opened = random.Random(SEED), "", []
    for _ in range(incidents):
        weeks += rng.choice((".", "..", ".d.."))  # a single odd week is none
        opened.append(len(weeks) + 1)
        weeks += "d" * rng.randint(2, 4) + rng.choice(("", ".d", "?")) + ".."
    return weeks, opened


def _draw_days(count: int) -> tuple[str, list[int]]:
    """Return verdicts on days, most of them well, and the days on which incidents open.

    Those are counted here by a rule of our own: open at an odd day, over after two well ones.
    """
    rng, days = random.Random(SEED + 1), ""
    while len(days) < count - 2:
        days += "." * rng.randint(3, 20) + rng.choice(("d", "dd", "d.d", "ddd?d"))
    days = days[: count - 2] + ".."
    opened, standing, well = [], False, 0
    for day, sign in enumerate(days):
        well = well + 1 if sign == "." else 0
        if sign == "d" and not standing:
            opened.append(day)
        standing = (standing or sign == "d") and well < 2
    return days, opened


@contextmanager
def _prefect(home: Path) -> Iterator[Settings]:
    """Run a Prefect server, and give the settings that name it."""
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment, build_services

    settings = Settings(home=home, prefect_port=find_free_port())
    before = dict(os.environ)
    os.environ.update(build_environment(settings))
    try:
        with running_stack(settings, [s for s in build_services(settings) if s.name == "prefect"]):
            yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(settings: Settings, home: Path, weeks: str, kills: int) -> tuple[Said, int]:
    """Judge and tell all weeks in processes of their own; return what the webhook took, and the kills."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    asked = count(1)
    home.mkdir(parents=True)
    with (
        receiving(lambda: 503 if kills and next(asked) % 7 == 0 else 200) as (url, came),
        temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}),
    ):
        block = save_block(home.name, url)
        own = settings.model_copy(update={"home": home, "notify_block": block})
        watcher = _start(own, "watch", weeks) if not kills else None
        try:
            killed = _kill_until_done(own, weeks, kills)
        finally:
            (home / "done").touch()
            if watcher:
                assert watcher.wait(LIMIT) == 0
    return [(_read_incident(told["body"]), _read_kind(told["subject"])) for told in came], killed


def _kill_until_done(settings: Settings, weeks: str, kills: int) -> int:
    rng, killed, deadline = random.Random(SEED), 0, time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        process = _start(settings, "judge", weeks)
        if killed == kills:
            assert process.wait(LIMIT) == 0
            return killed
        begun = settings.home / "begun"
        while not begun.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.2))
        # One that ended by itself has told all there was: it is no kill, and the next one begins anew.
        if process.poll() is None:
            process.kill()
            killed += 1
        assert process.wait(LIMIT) in (0, -9)
        begun.unlink()
    raise TimeoutError(f"{killed} of {kills} kills in {LIMIT:.0f} s")


def _start(settings: Settings, task: str, weeks: str) -> "subprocess.Popen[bytes]":
    from flows.local.stack_services import PROJECT, build_environment

    environment = {**os.environ, **build_environment(settings), "PREFECT_HOME": os.environ["PREFECT_HOME"]}
    return subprocess.Popen((sys.executable, "-m", __name__, task, weeks), cwd=PROJECT, env=environment)


def _judge_weeks(settings: Settings, signs: str) -> None:
    """Judge each week after the days before it, from where a killed process was; tell after each."""
    weeks, days = signs.split("/")
    lake, place = Lake(settings.home / "lake"), settings.home / "weeks.json"
    (settings.home / "begun").touch()
    for week in range(json.loads(place.read_text()) if place.exists() else 0, len(weeks)):
        since, until = (7 * n + LATE if n else 0 for n in (week, week + 1))
        judge_days(lake, days[since:until], since=since)
        _tell(settings, lake)
        judge(lake, weeks[week], since=week)
        for _ in range(AGAIN):
            _tell(settings, lake)
        part = place.with_suffix(".part")
        part.write_text(str(week + 1))
        part.replace(place)
    while _tell(settings, lake):
        pass


def _watch(settings: Settings) -> None:
    """Tell what there is to tell, again and again, until the other one is done."""
    while not (settings.home / "done").exists():
        _tell(settings, Lake(settings.home / "lake"))
        time.sleep(0.05)


def _tell(settings: Settings, lake: Lake) -> bool:
    """Look once; return whether something is left to be said."""
    from flows.channels import build_channels
    from flows.notify import tell_incidents

    told = tell_incidents(lake, "toy", build_channels(settings), lambda window: {}, settings.home)
    return bool(told.failed)


def _read_incident(body: str) -> str:
    return body.rsplit("Incident: ", 1)[1]


def _read_kind(subject: str) -> str:
    return "cleared" if "all clear" in subject else "opened"


def _figure(name: str, value: Any, bar: str, ok: bool) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": ok}


if __name__ == "__main__":
    import logging

    from feature_repo.settings import load_settings

    logging.disable(logging.CRITICAL)  # refused messages are what this is about
    if sys.argv[1] == "watch":
        _watch(load_settings())
    else:
        _judge_weeks(load_settings(), sys.argv[2])
