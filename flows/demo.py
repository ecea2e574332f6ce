"""The main job: the whole loop on real flights, from an empty home to a model that was kept alive.

A replay: logical days run one after the other, with the code that runs nightly, against the real stack.
A day's batches land at once; the features of each hour are put online, and traffic sent, hour by hour.
"""

import os
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from feature_repo.errors import PerennialError, StackError
from feature_repo.settings import Settings
from flows.played import Rows, await_retrain, play_hours, without_heartbeat
from flows.progress import report, showing
from flows.quiet import QUIET

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.contract import Period
    from flows.project import Project
    from flows.traffic import Load

# What a stack keeps under its home.
STATE = (
    *("lake", "feast", "journal", "models", "packages", "prefect", "mlflow"),
    *("reports", "pages", "metrics", "lineage"),
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


@dataclass
class Story:
    """What happened, as it was seen."""

    first_version: int = 0
    days: int = 0
    served: Counter[str] = field(default_factory=Counter)
    retrains: list[dict[str, Any]] = field(default_factory=list)
    swaps: list[dict[str, Any]] = field(default_factory=list)
    stopped_batches: list[str] = field(default_factory=list)
    quarantined: int = 0
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    months: list[dict[str, Any]] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)
    seconds: float = 0.0

    def missing(self) -> list[str]:
        """Return what did not truly happen; empty if all of it did."""
        wanted = {
            "a first model was promoted": self.first_version > 0,
            "days were replayed": self.days > 0,
            "the monitor's verdict led to a retrain": bool(self.retrains),
            "the gate passed a retrained model": any(r["passed"] for r in self.retrains),
            "the service swapped to it": any(s["kind"] == "promotion" for s in self.swaps),
            "every worker followed each swap": all(s["seconds"] is not None for s in self.swaps),
            "the alias was moved back and the service followed": any(
                s["kind"] == "roll-back" and s["seconds"] is not None for s in self.swaps
            ),
            "requests were sent and none failed": self.sent > 0 and not self.failed,
            "drift reports were written": bool(self.reports),
            "frozen and kept model were compared": bool(self.months),
        }
        return [what for what, true in wanted.items() if not true]


def run(settings: Settings, script: Script | None = None, console: Console | None = None) -> bool:
    """Run the demo from nothing; return True only if everything that it shows truly happened.

    What the home holds is set aside, not deleted. Raises StackError if a stack runs on it.
    """
    script, console = script or Script(), console or Console()
    settings = settings.model_copy(update={"schedules": False})
    _set_aside(settings, console)
    from flows.stack import running_stack
    from flows.stack_services import build_environment

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
    _show(console, settings, story)
    return not story.missing()


def _tell(settings: Settings, script: Script, progress: Progress, console: Console) -> Story:
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
    _compare(project, story)
    story.reports = sorted((settings.home / "reports").glob("*.html"))
    return story


def _show_backfill(progress: Progress, bar: TaskID, done: int, total: int) -> None:
    progress.update(bar, completed=done, total=total)
    report(done, total, "days taken in")


def _replay(
    project: "Project", script: Script, story: Story, load: "Load", progress: Progress, console: Console
) -> None:
    days = (script.last_day - script.backfill_until).days + 1
    bar = progress.add_task("replay days", total=days)
    day, last = script.backfill_until, script.last_day
    while day <= last:
        progress.update(bar, description=f"replay {day}")
        report(story.days, days, f"replay {day}")
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
    from flows.release import reconcile_previous
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


def _compare(project: "Project", story: Story) -> None:
    """Score every labelled prediction with the first model as well, on the very same feature values."""
    import json

    import polars as pl

    from feature_repo.contract import Period
    from flows.train import measure, predict
    from services.package import load_package

    problem = project.problem
    labels = project.lake.read("labels")
    if not len(labels):
        return
    labels = labels.filter(pl.col("outcome").is_not_null())
    journal = project.journal.read_predictions(Period(problem.start, problem.end))
    joined = journal.join(labels.select("prediction_id", "outcome"), on="prediction_id")
    rows = pl.DataFrame([json.loads(text) for text in joined["features"]], infer_schema_length=None).select(
        problem.feature_names
    )
    frozen = load_package(project.package(story.first_version)).estimator
    when = joined["requested_at"].str.to_datetime(time_zone="UTC").dt.convert_time_zone(problem.time_zone)
    both = joined.select("score", "outcome").with_columns(
        frozen=pl.Series(predict(frozen, rows, problem)), month=when.dt.strftime("%Y-%m")
    )
    for (month,), part in both.sort("month").group_by("month", maintain_order=True):
        was = measure(part["outcome"].to_numpy(), part["frozen"].to_numpy())
        now = measure(part["outcome"].to_numpy(), part["score"].to_numpy())
        story.months.append({"month": month, "rows": len(part), "frozen": was, "kept": now})


def _show(console: Console, settings: Settings, story: Story) -> None:
    from rich.table import Table

    table = Table(title="Frozen model against the one that was kept, on the same labelled predictions")
    for name in ("month", "labelled", "late", "frozen AUC", "kept AUC", "frozen skill", "kept skill"):
        table.add_column(name, justify="right")
    for m in story.months:
        was, now = m["frozen"], m["kept"]
        cells = [f"{was['base_rate']:.0%}", f"{was['auc']:.3f}", f"{now['auc']:.3f}"]
        cells += [f"{was['brier_skill']:+.3f}", f"{now['brier_skill']:+.3f}"]
        table.add_row(m["month"], f"{m['rows']:,}", *cells)
    console.print(table)
    console.print(f"days replayed      {story.days}")
    console.print(f"predictions        {story.sent:,} asked, {len(story.failed)} failed")
    console.print(
        f"batches            {len(story.stopped_batches)} stopped, {story.quarantined} rows quarantined"
    )
    for r in story.retrains:
        result = f"version {r['version']} promoted" if r["passed"] else "gate rejected it"
        why = shorten(r["reason"], 240, placeholder=" ...; all of it is in the run's parameters")
        console.print(f"retrain            {r['day']}: {result}; {why}")
    for s in story.swaps:
        took = f"{s['seconds']:.2f} s" if s["seconds"] is not None else "not followed"
        console.print(
            f"swap               {s['kind']}: version {s['from']} -> {s['to']}, every worker in {took}"
        )
    for path in story.reports:
        console.print(f"drift report       {path}")
    console.print(f"took               {story.seconds:.0f} s")
    for what in story.missing():
        console.print(f"[red]did not happen: {what}[/red]")
    for failure in story.failed[:5]:
        console.print(f"[red]failed request: {failure}[/red]")
    console.print(f"everything is under {settings.home}; `make up` starts the stack on it")


def example_request(settings: Settings) -> dict[str, Any]:
    """Return a real request (a flight), as of the newest features that the online store holds.

    Raises PerennialError if nothing has landed yet.
    """
    import polars as pl

    from flows.ingest import landed_until
    from flows.project import open_project
    from flows.traffic import to_json

    project = open_project(settings)
    problem, now = project.problem, landed_until(project)
    raw = {table.name: project.lake.read(table.name) for table in problem.raw}
    if not any(len(frame) for frame in raw.values()):
        raise PerennialError(
            "example request",
            got="an empty lake",
            expected="rows of the raw tables",
            next_step="Run `perennial demo`, or `perennial backfill`.",
        )
    asked = problem.build_requests(raw)
    upcoming = asked.filter(pl.col(problem.decided_at) >= now)
    rows = upcoming if len(upcoming) else asked.tail(1)
    return to_json(rows.row(0, named=True), problem, now)


def _count_batches(story: Story, manifests: Any) -> None:
    story.stopped_batches += [m.batch_id for m in manifests if m.status == "stopped"]
    story.quarantined += sum(m.quarantined for m in manifests if m.status == "landed")


def _set_aside(settings: Settings, console: Console) -> None:
    from flows.stack import read_stack

    stack = read_stack(settings.home)
    if stack is not None and stack.running:
        raise StackError(
            f"demo on {settings.home}",
            got="a running stack",
            expected="none: the demo starts from an empty home",
            next_step="Run `make down` first.",
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
