"""What `perennial doctor` says of a stack that did its work: the least section of the ML Test Score.

A stack of its own takes in nine weeks, trains, serves and judges a week of real flights, trains once more,
lets that version stand beside the champion, moves it in by hand and back again, and probes for skew. Retrain
policies are compared over these days. Then the tests that the rubric asks for run, and are recorded in its
home. Nothing of it is told to doctor: it looks.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx

from feature_repo.settings import Settings
from flows.deployments import PLANS
from flows.local.stack_services import PROJECT
from flows.readiness.walk import list_tests
from tests.ports import find_free_port
from tests.proofs.monitored import PORTS, changed_environment

# A window of the monitor begins with the second. A week later the first model is not surely better than a
# linear one, and the gate keeps it out: there would be nothing to walk.
FIRST, TRAINED = date(2013, 1, 1), date(2013, 2, 26)
DAYS = 9  # a week, until all of its labels are there, and two days beside a challenger
PER_DAY = 150  # answers
LEAST = 5.0
Figure = dict[str, Any]


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    from flows.local.stack_services import build_environment
    from flows.local.watched_stack import running_watched

    with tempfile.TemporaryDirectory(prefix="perennial-readiness-") as folder:
        ports = {f"{name}_port": find_free_port() for name in PORTS}
        settings = Settings(home=Path(folder), schedules=False, evidently_port=0, **ports)
        with changed_environment(build_environment(settings)), running_watched(settings):
            live(settings, FIRST, TRAINED, DAYS)
            run_cli(settings, "backtest", "--policies", "never,weekly")
            run_tests(settings)
            go_live(settings)
            yield from look(settings)


def live(settings: Settings, first: date, trained: date, days: int) -> None:
    """Let the stack do in minutes what it does in weeks."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.loop import backfill_days
    from flows.project import open_project
    from flows.retrain import retrain

    project = open_project(settings)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        backfill_days(project, first, trained, lambda done, total: None)
        retrain(until=project.day(trained).since, reason="first model")
        replay(settings, trained, days - 2)
        last = trained + timedelta(days=days - 2)
        told = retrain(until=project.day(last).since, reason="one more")
        exercise(settings, int(str(told["version"])), last)


def replay(settings: Settings, begin: date, days: int) -> None:
    """Run whole days with traffic, as the demo does."""
    from flows.demo import Script, replay_day
    from flows.project import open_project
    from flows.story import Story
    from flows.traffic import Load

    project, story = open_project(settings), Story()
    load = Load(settings.service_url, project.problem, 4.0)
    load.start()
    try:
        for number in range(days):
            replay_day(project, begin + timedelta(days=number), Script(per_day=PER_DAY), story, load)
    finally:
        load.end()
    assert not load.failed, load.failed[:3]


def exercise(settings: Settings, newer: int, begin: date) -> None:
    """Let a version stand beside the champion, then move it in by hand and back, and look for skew."""
    from flows.project import open_project
    from flows.releasing.release import promote, rollback
    from flows.skew import skew_probe
    from flows.traffic import await_version

    project, workers = open_project(settings), settings.service_workers
    champion = project.registry.aliases()["champion"]
    beside = newer if newer != champion else project.registry.aliases()["previous"]
    project.registry.set_alias("challenger", beside)
    replay(settings, begin, 2)
    project.registry.delete_alias("challenger")
    if newer != champion:
        promote(version=newer, reason="to see it serve")
        assert await_version(settings.service_url, newer, workers, 60) is not None
        rollback(reason="it was an exercise")
        assert await_version(settings.service_url, champion, workers, 60) is not None
    skew_probe(since=project.day(TRAINED).since)


def run_tests(settings: Settings) -> None:
    """Run the tests that are asked for, and keep what became of them in the home."""
    whole = [name for name in list_tests() if not name.startswith("tests/e2e")]
    command = (sys.executable, "-m", "pytest", "-q", "--record", str(settings.home / "tests.jsonl"), *whole)
    subprocess.run(command, cwd=PROJECT, check=False, stdout=sys.stderr)


def go_live(settings: Settings) -> None:
    """Switch on the schedules that the deployments come with, as one does where no days are replayed."""
    with httpx.Client(base_url=f"{settings.prefect_url}/api", timeout=30) as client:
        for plan in (one for one in PLANS if one.cron):
            asked = {"deployments": {"name": {"any_": [plan.name]}}}
            for found in client.post("/deployments/filter", json=asked).raise_for_status().json():
                for schedule in found["schedules"]:
                    place = f"/deployments/{found['id']}/schedules/{schedule['id']}"
                    client.patch(place, json={"active": True}).raise_for_status()


def run_cli(settings: Settings, *words: str) -> str:
    """Run a command as a person does, and return what it prints."""
    command = (sys.executable, "-m", "flows.cli", "--home", str(settings.home), *words)
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    print(done.stderr, file=sys.stderr)
    return done.stdout


def look(settings: Settings) -> Iterator[Figure]:
    """Yield what doctor says."""
    told = json.loads(run_cli(settings, "doctor", "--json"))
    for answer in told["rubric"]:
        lacking = [one["what"] for one in answer["findings"] if not one["holds"]]
        print(f"{answer['points']} {answer['question']}: {'; '.join(lacking)}", file=sys.stderr)
    backed = [one for one in told["rubric"] if one["points"]]
    shown = [one for one in backed if any(found["holds"] and found["where"] for found in one["findings"])]
    for section, points in told["sections"].items():
        yield {
            "name": f"doctor: section {section}",
            "value": points,
            "bar": f"at least {LEAST:g}",
            "ok": points >= LEAST,
        }
    yield {
        "name": "doctor: minimum section score",
        "value": told["score"],
        "bar": f"at least {LEAST:g}",
        "ok": told["score"] >= LEAST,
    }
    yield {
        "name": "doctor: points with evidence that can be opened",
        "value": f"{len(shown)} of {len(backed)}",
        "bar": "all",
        "ok": len(shown) == len(backed),
    }
