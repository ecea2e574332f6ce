"""The main job: the whole loop on real flights, from an empty home to a model that was kept alive.

A replay: logical days run one after the other, with the code that runs nightly, against the real stack.
A day's batches land at once; the features of each hour are put online, and traffic sent, hour by hour.
"""

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.played import Rows, await_retrain, play_hours, without_heartbeat
from flows.progress import report, showing
from flows.quiet import QUIET
from flows.story import Story, compare_frozen, show_story

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.contract import Period
    from flows.project import Project
    from flows.traffic import Load

# What a stack keeps under its home.
STATE = (
    *("lake", "feast", "journal", "models", "packages", "prefect", "mlflow", "artifacts"),
    *("releases", "reports", "pages", "metrics", "lineage", "monitoring", "replicas", "backtest"),
)


@dataclass(frozen=True)
class Script:
    """How long the story is.

    backfill_until, last_day   first day that is replayed, and the last one if nothing happens before
    after_swap                 days to replay with the new champion before the end
    per_day                    predictions asked for a day (of about 920 flights)
    load_per_second            single requests a second all the while, to see that no swap fails one
    """

    first_day: date = date(2013, 1, 1)
    backfill_until: date = date(2013, 3, 1)
    last_day: date = date(2013, 7, 31)
    after_swap: int = 21
    per_day: int = 300
    load_per_second: float = 8.0


def run(settings: Settings, script: Script | None = None, console: Console | None = None) -> bool:
    """Run the demo from nothing; return True only if everything that it shows truly happened.

    What the home holds is set aside, not deleted. Raises StackError if a stack runs on it.
    """
    script, console = script or Script(), console or Console()
    settings = settings.model_copy(update={"schedules": False})
    _set_aside(settings, console)
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment

    os.environ.update({**build_environment(settings), **QUIET})
    began = time.monotonic()
    # Bars in a terminal; elsewhere a line every few seconds.
    lines = nullcontext() if console.is_terminal else showing("demo", settings.home)
    with lines, _progress(console) as progress:
        start = progress.add_task("starting the stack", total=None)
        with running_stack(settings), without_heartbeat():
            progress.update(start, total=1, completed=1)
            story = _tell(settings, script, progress, console)
    story.seconds = time.monotonic() - began
    show_story(console, settings, story)
    return not story.missing()


def _tell(settings: Settings, script: Script, progress: Progress, console: Console) -> Story:
    from flows.data_quality import write_metrics
    from flows.loop import backfill_days
    from flows.project import open_project
    from flows.retrain import retrain
    from flows.traffic import Load, await_version

    project, story = open_project(settings), Story()
    bar = progress.add_task("backfill", total=None)
    manifests = backfill_days(
        project,
        script.first_day,
        script.backfill_until,
        lambda done, total: _show_backfill(progress, bar, done, total),
    )
    _count_batches(story, manifests)
    step = progress.add_task("train and promote the first model", total=1)
    told = retrain(until=project.day(script.backfill_until).since, reason="first model")
    if told["gate"] != "passed":
        raise StackError(
            "first model", got=str(told["why"]), expected="a passed gate", next_step="Read its gate card."
        )
    story.first_version = int(str(told["version"]))
    await_version(settings.service_url, story.first_version, settings.service_workers, limit=60)
    progress.update(step, completed=1)
    load = Load(settings.service_url, project.problem, script.load_per_second)
    load.start()
    try:
        _replay(project, script, story, load, progress, console)
        _roll_back(project, story, console)
    finally:
        load.end()
    story.sent += load.sent
    story.failed += load.failed
    compare_frozen(project, story)
    write_metrics(project)
    story.reports = sorted((settings.home / "reports").glob("*.html"))
    return story


def _show_backfill(progress: Progress, bar: TaskID, done: int, total: int) -> None:
    progress.update(bar, completed=done, total=total)
    report(0, 0, f"{done} of {total} days taken in")


def _replay(
    project: "Project", script: Script, story: Story, load: "Load", progress: Progress, console: Console
) -> None:
    days = (script.last_day - script.backfill_until).days + 1
    bar = progress.add_task("replay days", total=days)
    day, last = script.backfill_until, script.last_day
    while day <= last:
        progress.update(bar, description=f"replay {day}")
        report(0, 0, f"replay of {day}")  # of how many is not known: it ends after a new champion's weeks
        asked = replay_day(project, day, script, story, load)
        story.days += 1
        progress.advance(bar)
        if asked:
            outcome = _follow_retrain(project, story, console, day)
            if outcome["passed"] and any(s["kind"] == "promotion" for s in story.swaps):
                last = min(last, day + timedelta(days=script.after_swap))
                progress.update(bar, total=(last - script.backfill_until).days + 1)
        day += timedelta(days=1)


def replay_day(project: "Project", day: date, script: Script, story: Story, load: "Load") -> bool:
    """Run one logical day with traffic; return whether the monitor asked for a retrain."""
    from prefect import flow

    from flows.features import build
    from flows.ingest import ingest
    from flows.loop import close_day
    from flows.summary import publish_manifests

    period = project.day(day)

    @flow(name="replay-day", flow_run_name=f"replay {day}")
    def replay() -> bool:
        manifests = ingest(project, period)
        _count_batches(story, manifests)
        frames = build(project, period)
        _send_day(project, period, frames, script, story, load)
        publish_manifests("replay-day", manifests, project.settings)
        return bool(close_day(project, period)["retrain_asked"])

    return replay()


def _send_day(
    project: "Project",
    period: "Period",
    frames: dict[str, "pl.DataFrame"],
    script: Script,
    story: Story,
    load: "Load",
) -> None:
    import httpx

    from flows.traffic import ask

    with httpx.Client() as client:

        def send(rows: Rows) -> None:
            story.served.update(ask(client, project.settings.service_url, rows, project.problem))
            story.sent += len(rows)

        play_hours(project, period, frames, script.per_day, load, send)


def _follow_retrain(
    project: "Project", story: Story, console: Console, day: date, limit: float = 300
) -> dict[str, Any]:
    """Wait for the run that the automation started, and for the service to follow its verdict."""
    from flows.traffic import await_version

    before = project.registry.aliases().get("champion")
    console.log(f"{day}: the monitor asked for a retrain; waiting for the automation's run")
    run = await_retrain({r["run"] for r in story.retrains}, limit)
    after = project.registry.aliases().get("champion")
    passed = run["state"] == "Completed" and after != before
    outcome = {"day": day, "passed": passed, "version": after if passed else None, **run}
    story.retrains.append(outcome)
    if passed and after is not None:
        workers, url = project.settings.service_workers, project.settings.service_url
        seconds = await_version(url, after, workers, limit=10)
        story.swaps.append({"kind": "promotion", "from": before, "to": after, "seconds": seconds})
    result = f"version {after} serves" if passed else "not promoted"
    console.log(f"{day}: retrain {run['state']}, {result}")
    return outcome


def _roll_back(project: "Project", story: Story, console: Console) -> None:
    """Move the alias as a person would in the MLflow UI, with nothing of ours in between."""
    from flows.releasing.release import reconcile_previous
    from flows.traffic import await_version

    aliases = project.registry.aliases()
    champion, previous = aliases.get("champion"), aliases.get("previous")
    if champion is None or previous is None or champion == previous:
        return
    project.registry.set_alias("champion", previous)
    settings = project.settings
    seconds = await_version(settings.service_url, previous, settings.service_workers, limit=10)
    story.swaps.append({"kind": "roll-back", "from": champion, "to": previous, "seconds": seconds})
    console.log(f"alias moved back to version {previous} by hand; every worker followed")
    reconcile_previous(project)


def _count_batches(story: Story, manifests: Any) -> None:
    story.stopped_batches += [m.batch_id for m in manifests if m.status == "stopped"]
    story.quarantined += sum(m.quarantined for m in manifests if m.status == "landed")


def _set_aside(settings: Settings, console: Console) -> None:
    from flows.local.stack import read_stack

    folders = (settings.home, settings.home / "monitoring", settings.home / "replicas")
    if any(stack is not None and stack.running for stack in map(read_stack, folders)):
        raise StackError(
            f"demo on {settings.home}",
            got="a running stack",
            expected="none: the demo starts from an empty home",
            next_step="Run `make down` first, and `perennial monitoring down`, `perennial replicas down`.",
        )
    held = [name for name in STATE if (settings.home / name).exists()]
    if held:
        aside = settings.home / f"before-{time.strftime('%Y%m%dT%H%M%S')}"
        aside.mkdir(parents=True)
        for name in held:
            (settings.home / name).rename(aside / name)
        console.print(f"the demo starts from nothing: what was in {settings.home} is now in {aside}")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, refresh_per_second=2)
