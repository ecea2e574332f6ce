"""A few days of real flights around a clock change, and answers to them by the service's own code path.

Only the store is a stand-in: it says what feature frames hold as of each request, judged as the real one is.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from feature_repo.contract import Feature, Period, Problem
from feature_repo.lake import Lake
from feature_repo.problem import PROBLEM, TABLES
from feature_repo.settings import Settings
from feature_repo.store import OnlineVector, judge_ages
from flows.features import build_features, compute_features
from flows.manifests import LANDED, Manifest, record_manifests
from flows.project import Project, open_project
from flows.skew import compare_answers
from services.answering import Answering, Store
from services.journal import Prediction
from services.live import Serving
from services.metrics import Metrics
from services.schemas import build_wire

if TYPE_CHECKING:
    from tests.skew.mutations import Mutation

STAMP = "event_timestamp"
FIRST, ASKED, LAST = date(2013, 3, 5), date(2013, 3, 9), date(2013, 3, 12)  # the clocks change on 10 March
# The first version of the feature service: the injected skews edit its functions.
FIRST_SERVICE = replace(
    PROBLEM,
    feature_service="flight_delay_v1",
    feature_tables=TABLES,
    features=tuple(f for f in PROBLEM.features if f.source == "request")
    + tuple(Feature(name, "number", table.name) for table in TABLES for name in table.features),
)
Frames = Mapping[str, pl.DataFrame]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class AsOfStore:
    """What frames of features hold as of each row's decision, moved by `move` if the clock is off."""

    def __init__(
        self, problem: Problem, frames: Frames, move: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    ) -> None:
        self._problem = problem
        self._frames = frames
        self._move = move or (lambda rows: rows)

    def read_online(self, rows: Sequence[Mapping[str, Any]]) -> list[OnlineVector]:
        """Return each row's features."""
        keys = {key for table in self._problem.feature_tables for key in table.keys}
        at = self._problem.decided_at
        asked = pl.DataFrame([{name: row[name] for name in (*keys, at)} for row in rows])
        kinds = {**dict.fromkeys(keys, pl.String), at: pl.Datetime("us", "UTC")}
        asked = self._move(asked.cast(kinds)).with_row_index("_row").sort(at)
        answer: dict[str, list[Any]] = {}
        for table in self._problem.feature_tables:
            frame = self._frames[table.name].sort(STAMP)
            found = asked.join_asof(
                frame, left_on=at, right_on=STAMP, by=list(table.keys), check_sortedness=False, coalesce=False
            ).sort("_row")
            stamps = (found[STAMP].dt.epoch("us") / 1e6).fill_null(0).to_list()
            for name in table.features:
                answer |= {name: found[name].to_list(), f"{name}__ts": stamps}
        moved = asked.sort("_row")[at].to_list()
        return [judge_ages(self._problem, answer, n, moved[n]) for n in range(len(rows))]


@dataclass(frozen=True)
class NoModels:
    """Nothing was promoted yet: the answers are the prior's, and their features are kept all the same."""

    serving: Serving = field(default_factory=Serving)

    def read_status(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


@dataclass(frozen=True)
class Base:
    """The lake of these days, their features, and requests as clients send them."""

    project: Project
    frames: Frames
    requests: tuple[bytes, ...]

    def answer(
        self,
        frames: Frames | None = None,
        problem: Problem | None = None,
        move: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> list[Prediction]:
        """Answer every request as the service does, with some of the frames or the problem exchanged."""
        problem = problem or self.project.problem
        return self.ask(AsOfStore(problem, {**self.frames, **(frames or {})}, move), problem=problem)

    def ask(
        self, store: Store, period: Period | None = None, problem: Problem | None = None
    ) -> list[Prediction]:
        """Answer every request, or those decided in the period, with what a store says."""
        problem = problem or self.project.problem
        wire = build_wire(problem)
        given = [(wire.to_row(wire.requests.read(body)[0][0]), body) for body in self.requests]
        if period:
            given = [one for one in given if period.since <= one[0][problem.decided_at] < period.until]
        rows, bodies = zip(*given, strict=True)
        return Answering(problem, store, NoModels(), Metrics()).answer(rows, bodies).predictions

    def compute(self, *names: str) -> dict[str, pl.DataFrame]:
        """Compute feature tables of all days, by the code as it is at this moment."""
        table = self.project.problem.table
        return {
            name: compute_features(self.project, table(name), find_stretch(self.project)) for name in names
        }

    def copy(self, home: Path) -> "Base":
        """Return the same on a home of its own, whose lake may be changed."""
        shutil.copytree(self.project.settings.home, home)
        return replace(self, project=open_on(home, self.project.problem))


def build_base(home: Path, problem: Problem = FIRST_SERVICE) -> Base:
    """Land the days without their validation, which is not at issue here, and compute their features."""
    project = open_on(home, problem)
    land(project)
    frames = build_features(project, find_stretch(project))
    return Base(project, frames, tuple(make_requests(project)))


def land(project: Project) -> None:
    """Put the raw rows of the days into the lake."""
    period = find_stretch(project)
    for table in project.problem.raw:
        reached = Period(period.since - table.ahead, period.until)
        frame = project.fetch(table.name, reached).frame.select(list(table.schema))
        project.lake.replace(table.name, frame, reached, table.known_at)
        told = dict.fromkeys(Manifest.__dataclass_fields__, "") | {"files": "[]", "profile": "{}"}
        counts = dict.fromkeys(("seen", "accepted"), len(frame)) | {"quarantined": 0, "revision": 1}
        known = {"table": table.name, "since": reached.since, "until": reached.until, "status": LANDED}
        marks = {"batch_id": f"{table.name}/1", "version": 0, "followed": True}
        record_manifests(project.lake, [Manifest(**{**told, **counts, **known, **marks})])


def make_requests(project: Project, every: int = 5) -> Iterator[bytes]:
    """Yield some flights' requests, asked for two to thirteen hours ahead so that every hour has some."""
    problem = project.problem
    asked = Period(project.day(ASKED).since, project.day(LAST).until)
    schedule = project.lake.read("schedule").filter(pl.col("scheduled_departure") < asked.until)
    flights = problem.build_requests({"schedule": schedule}).gather_every(every)
    for number, row in enumerate(flights.iter_rows(named=True)):
        at = row["scheduled_departure"] - (2 + number % 12) * HOUR
        if at >= asked.since:
            names = ("carrier", "flight", "origin", "dest", "distance", "scheduled_departure")
            yield msgspec.json.encode({**{name: row[name] for name in names}, "requested_at": at})


def open_on(home: Path, problem: Problem = FIRST_SERVICE) -> Project:
    """Return a version of the bundled problem on a home."""
    project = open_project(Settings(home=home, mlflow_port=1))
    return replace(project, lake=Lake(home / "lake"), problem=problem)


def find_stretch(project: Project) -> Period:
    """Return all of the days."""
    return Period(project.day(FIRST).since, project.day(LAST).until)


@contextmanager
def changed(module: Any, **names: Any) -> Iterator[None]:
    """Run with other values of a module's names: a definition that was edited on one side alone."""
    before = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def judge(mutation: "Mutation", base: Base) -> list[str]:
    """Inject a skew and return what is wrong with what the probe makes of it."""
    answers, project = mutation.inject(base)
    _, verdict = compare_answers(project, build_wire(project.problem), answers)
    found = {one.name: one for one in verdict.features if one.mismatched}
    problems = [f"{name} was not found" for name in sorted(mutation.must - set(found))]
    allowed = mutation.must | mutation.may
    problems += [f"{name} was found wrongly" for name in sorted(set(found) - allowed)]
    for name in sorted(mutation.must & set(found)) if mutation.cause else ():
        cause = found[name].cause
        if cause is None or cause.name != mutation.cause:
            problems.append(f"{name} was put down to {cause}, not to {mutation.cause}")
    return problems
