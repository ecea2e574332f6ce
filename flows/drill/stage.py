"""What a drill plays on: a stack of its own beside any other, two months of flights, a model, steady load.

It never touches what a user's stack runs on: its home is a folder of its own, its ports are free ones.
"""

import contextlib
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from feature_repo.contract import Delivery, Fetch, Period
from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.drill.defences import Defences
from flows.ingest import ingest_period, landed_until
from flows.local.children import Service
from flows.local.stack import read_stack
from flows.played import Rows, play_hours, without_heartbeat
from flows.project import Project, open_project
from flows.quiet import QUIET
from flows.traffic import TIMEOUT, Load, await_version, to_json

if TYPE_CHECKING:
    from flows.manifests import Manifest
    from flows.monitor import Findings

FIRST, TRAINED = date(2013, 1, 1), date(2013, 3, 1)
DAILY = date(2013, 2, 13)  # from here on day by day: the rules from a table's past ask for 14 days
PIECE = timedelta(days=42)
PER_SECOND = 4.0  # requests of the steady load
FOLDER, MARK = "drill", ".drill"  # under the home; the mark says that a folder may be emptied
PORTS = (
    *("prefect_port", "mlflow_port", "service_port", "runner_port", "reports_port"),
    *("prometheus_port", "alertmanager_port"),
)


class Feed:
    """The source, of which tables can be held back."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self.held: set[str] = set()

    def __call__(self, table: str, period: Period) -> Delivery:
        """Return what became known in the period, or nothing if the table is held back."""
        told = self._fetch(table, period)
        return Delivery(told.frame.clear(), told.files) if table in self.held else told


@dataclass
class Day:
    """A logical day that was played."""

    period: Period
    manifests: "list[Manifest]"
    labels: dict[str, int]
    findings: "Findings"
    served: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)


@dataclass
class Stage:
    """A running stack with a champion, and what was asked of it so far."""

    settings: Settings
    project: Project
    feed: Feed
    load: Load
    client: httpx.Client
    defences: Defences
    tell: Callable[[str], None]
    seed: int = 2013
    asked: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        """Logical time: up to when data has landed, of the table that is furthest."""
        return max(landed_until(self.project, table.name) for table in self.project.problem.raw)

    @property
    def champion(self) -> int:
        """The version that serves."""
        return self.project.registry.aliases()["champion"]

    @property
    def url(self) -> str:
        """Where the service answers."""
        return self.settings.service_url

    def count(self) -> tuple[int, list[str]]:
        """Return requests sent so far, and those that failed."""
        return self.asked + self.load.sent, self.failed + self.load.failed

    def post(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ask about some things at once; return the answers, none if the request failed."""
        self.asked += len(bodies)
        try:
            answer = self.client.post(f"{self.url}/predict", json=list(bodies))
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return []
        if answer.status_code != httpx.codes.OK:
            self.failed.append(f"HTTP {answer.status_code}: {answer.text[:200]}")
            return []
        told: list[dict[str, Any]] = answer.json()["predictions"]
        return told

    def await_champion(self, version: int, limit: float = 30) -> float | None:
        """Wait until every worker serves the version; return the seconds, or None."""
        return await_version(self.url, version, self.settings.service_workers, limit)

    def play_day(
        self,
        per_day: int = 200,
        change: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
        on_hour: Callable[[datetime], bool] = lambda hour: True,
        after_hour: Callable[[datetime], None] = lambda hour: None,
    ) -> Day:
        """Play the next day as the nightly run and the hourly ones would; `change` alters each request."""
        from flows.features import build_features, find_unbuilt, materialize_period
        from flows.label import label_period
        from flows.loop import reach_back

        project, period = self.project, self.project.day(self.project.local_day(self.now))
        self.tell(f"playing {project.local_day(period.since)}")
        manifests = ingest_period(project, period)
        unbuilt = find_unbuilt(project, period)
        frames = build_features(project, unbuilt)
        if unbuilt.since < period.since:
            materialize_period(project, frames, Period(unbuilt.since, period.since))
        served, flags = Counter[str](), Counter[str]()

        def send(rows: Rows) -> None:
            answers = self.post([change(to_json(row, project.problem)) for row in rows])
            served.update(one["served_by"] for one in answers)
            flags.update(kind for one in answers for kind in {flag["kind"] for flag in one["flags"]})

        play_hours(project, period, frames, per_day, self.load, send, on_hour, after_hour)
        reached = reach_back(period, manifests)
        counts = label_period(project.lake, project.journal, project.problem, reached)
        findings = self.watch(period.until)
        return Day(period, manifests, asdict(counts), findings, served, flags)

    def watch(self, until: datetime, **options: Any) -> "Findings":
        """Have the monitor judge the champion, as the nightly run does."""
        project, version = self.project, self.champion
        return self.defences.monitor(
            project.lake,
            project.journal,
            project.problem,
            project.package(version),
            self.settings.home / "reports",
            version=str(version),
            until=until,
            **options,
        )


@contextlib.contextmanager
def running_stage(
    settings: Settings,
    tell: Callable[[str], None],
    defences: Defences | None = None,
    services: Callable[[Settings], list[Service]] | None = None,
    seed: int = 2013,
) -> Iterator[Stage]:
    """Start a stack, give it two months of flights and a first model, and ask it steadily; then stop it."""
    from flows.local.stack import running_stack
    from flows.local.stack_services import build_environment, build_services

    own = make_settings(settings)
    before = dict(os.environ)
    os.environ.update({**build_environment(own), **QUIET})
    try:
        with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as held:
            project = open_project(own)
            feed = Feed(project.fetch)
            project = replace(project, fetch=feed)
            tell("starting a stack; taking in January and February")
            filled = pool.submit(_fill, project, tell)  # while the servers start
            held.enter_context(running_stack(own, (services or build_services)(own)))
            filled.result()
            held.enter_context(without_heartbeat())
            client = held.enter_context(httpx.Client(timeout=TIMEOUT))
            load = Load(own.service_url, project.problem, PER_SECOND)
            stage = Stage(own, project, feed, load, client, defences or Defences(), tell, seed)
            _train(stage)
            load.start()
            try:
                yield stage
            finally:
                load.end()
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_settings(settings: Settings) -> Settings:
    """Return settings of a stack beside the user's: an emptied home of its own in theirs, free ports."""
    home = settings.home / FOLDER / "home"
    stack = read_stack(home)
    if stack is not None and stack.running:
        raise StackError(
            f"drill in {home}",
            got="another drill that runs",
            expected="one at a time",
            next_step="Wait for it, or end it.",
        )
    if (home / MARK).exists():
        shutil.rmtree(home)
    if home.exists():
        raise StackError(
            f"drill in {home}",
            got="a folder that no drill made",
            expected="none, or one of an earlier drill",
            next_step="Move it away.",
        )
    home.mkdir(parents=True)
    (home / MARK).touch()
    ports = dict(zip(PORTS, find_ports(len(PORTS)), strict=True))
    fixed = {"evidently_port": 0, "schedules": False, "source": "", "mlflow_server": "", "notify_block": ""}
    return settings.model_copy(update={"home": home, **ports, **fixed})


def find_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def clear_home(home: Path) -> None:
    """Delete a drill's home, and nothing that no drill made."""
    if (home / MARK).exists():
        shutil.rmtree(home)


def take_in(project: Project, since: datetime, until: datetime) -> None:
    """Take in a stretch in a few large batches, as after an outage, and compute its features.

    Rules that hold a day against the days before it say nothing of these. Raises StackError if one stops.
    """
    from flows.features import build_features, materialize_period

    begun = since
    while since < until:
        piece = Period(since, min(until, since + PIECE))
        stopped = [m for m in ingest_period(project, piece) if m.status == "stopped"]
        if stopped:
            raise StackError(
                "a stretch that the drill skips",
                got=f"{stopped[0].batch_id} stopped: {stopped[0].reasons}",
                expected="batches that land",
                next_step="Look at the batch's validation page.",
            )
        since = piece.until
    if begun < until:
        whole = Period(begun, until)
        materialize_period(project, build_features(project, whole), whole)


def _fill(project: Project, tell: Callable[[str], None]) -> None:
    from flows.loop import backfill_days

    def show(done: int, days: int) -> None:
        if done and done % 5 == 0:
            tell(f"{done} of {days} days taken in one by one")

    take_in(project, project.day(FIRST).since, project.day(DAILY).since)
    backfill_days(project, DAILY, TRAINED, show)


def _train(stage: Stage) -> None:
    from flows.retrain import retrain

    stage.tell("training the first model")
    told = retrain(until=stage.project.day(TRAINED).since, reason="first model of the drill")
    if told["gate"] != "passed":
        raise StackError(
            "the drill's first model", got=told["why"], expected="a passed gate", next_step="Read its card."
        )
    stage.await_champion(int(str(told["version"])), 60)
