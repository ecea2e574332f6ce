"""Does damage to one day's delivery, ingests the day, and compares what happened with what should.

A home with four weeks of clean days is built once. Each damage gets a copy of it and a folder that holds
the day's delivery: the flights of the day and of the day after (its timetable), and the day's weather.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import polars as pl

from feature_repo.errors import SourceError
from feature_repo.settings import Settings
from feature_repo.source import COLUMNS, _bundled
from flows.ingest import ingest_period
from flows.manifests import Manifest
from flows.project import Project, open_project
from flows.quarantine import read_quarantine

FIRST = date(2013, 2, 11)
DAY = date(2013, 3, 12)  # a rainy Tuesday
CLOCK_CHANGE = date(2013, 3, 10)


@dataclass(frozen=True)
class Delivery:
    """The day's delivery as frames: typed, in the columns of the files."""

    day: date
    flights: pl.DataFrame
    weather: pl.DataFrame

    @property
    def today(self) -> pl.Expr:
        """Which flights are the day's: they left and arrived."""
        return pl.date("year", "month", "day") == self.day

    @property
    def tomorrow(self) -> pl.Expr:
        """Which flights are the next day's: of them the timetable is told."""
        return pl.date("year", "month", "day") == self.day + timedelta(days=1)


@dataclass(frozen=True)
class Told:
    """What becomes, or should become, of one table's batch: its status, and the rule that says so."""

    status: str
    rule: str = ""
    rows: int = 0

    def __str__(self) -> str:
        rows = f" {self.rows}" if self.rows else ""
        return f"{self.status}{rows}" + (f" ({self.rule})" if self.rule else "")


@dataclass(frozen=True)
class Damage:
    """One kind of damage. A table that `expected` does not name lands whole, with no row kept back.

    change    alters the delivery's frames before they are written
    spoil     alters the written files: paths of the flights' and the weather's file
    days      at most so many days in a row are delivered damaged, until what should happen happens
    """

    name: str
    says: str
    expected: Mapping[str, Told]
    change: Callable[[Delivery], Delivery] | None = None
    spoil: Callable[[Path, Path], None] | None = None
    day: date = DAY
    days: int = 1


@dataclass(frozen=True)
class Outcome:
    """What happened: `actual` by table, as `Damage.expected`, on the last of the `days` taken in."""

    damage: Damage
    actual: Mapping[str, Told]
    problems: tuple[str, ...]
    days: int = 1

    @property
    def ok(self) -> bool:
        """Whether all that happened was right."""
        return not self.problems


@dataclass
class Registry:
    """The kinds of damage, in the order in which they are written down."""

    kinds: list[Damage] = field(default_factory=list)

    def rows(
        self, day: date = DAY, days: int = 1, **expected: Told
    ) -> Callable[[Callable[[Delivery], Delivery]], Callable[[Delivery], Delivery]]:
        """Register a damage to the delivery's rows."""

        def register(change: Callable[[Delivery], Delivery]) -> Callable[[Delivery], Delivery]:
            name, says = change.__name__, change.__doc__ or ""
            self.kinds.append(Damage(name, says, expected, change=change, day=day, days=days))
            return change

        return register

    def files(
        self, **expected: Told
    ) -> Callable[[Callable[[Path, Path], None]], Callable[[Path, Path], None]]:
        """Register a damage to the delivery's files."""

        def register(spoil: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
            self.kinds.append(Damage(spoil.__name__, spoil.__doc__ or "", expected, spoil=spoil))
            return spoil

        return register


DAMAGES = Registry()


def refused(says: str) -> Told:
    """The file cannot be read, and the error says so: nothing of any table lands."""
    return Told("refused", says)


def stopped(rule: str) -> Told:
    """The batch does not land; the rule is among its reasons."""
    return Told("stopped", rule)


def quarantined(rows: int, rule: str) -> Told:
    """The batch lands without these rows, which are kept back by the rule."""
    return Told("quarantined", rule, rows)


def warned(rule: str) -> Told:
    """The batch lands whole, and the rule's warning is told."""
    return Told("warned", rule)


def landed() -> Told:
    """The batch lands whole."""
    return Told("landed")


def build_base(root: Path) -> dict[date, Path]:
    """Build homes of clean days up to the day before each day that damage is done to."""
    home, homes = root / "home", {}
    write_day(root / "source", FIRST - timedelta(days=1), FIRST, DAY)
    project = open_project(Settings(home=home, source=str(root / "source"), mlflow_port=1))
    # What the rules say of clean days is measured over the whole year; here they only take time.
    project = replace(project, suite=lambda table, period: [], add_check_columns=lambda t, frame, _: frame)
    for n in range((DAY - FIRST).days):
        day = FIRST + timedelta(days=n)
        if day == CLOCK_CHANGE:
            homes[day] = root / "before the clock change"
            shutil.copytree(home, homes[day])
        manifests = ingest_period(project, project.day(day))
        assert all(m.status == "landed" for m in manifests), [(m.table, m.reasons) for m in manifests]
    return {**homes, DAY: home}


def run(damage: Damage, base: Mapping[date, Path], work: Path) -> Outcome:
    """Do the damage to a copy of the base, take the day in, and compare."""
    home, source = work / "home", work / "source"
    shutil.copytree(base[damage.day], home)
    actual, n = dict[str, Told](), 0
    for n in range(damage.days):
        project = _deliver(damage, damage.day + timedelta(days=n), home, source)
        actual = _take_in(project, damage.day + timedelta(days=n), damage.expected)
        if not list(_compare(damage.expected, actual)):
            break
    return Outcome(damage, actual, tuple(_compare(damage.expected, actual)), n + 1)


def run_all(kinds: Iterable[Damage], base: Mapping[date, Path], work: Path) -> Iterator[Outcome]:
    """Run each damage in a folder of its own, which is removed afterwards."""
    for damage in kinds:
        folder = work / damage.name
        yield run(damage, base, folder)
        shutil.rmtree(folder)


def show(outcome: Outcome) -> str:
    """Return one line: the damage, what should happen, what did."""
    told = [f"{t}: {v}" for t, v in outcome.actual.items() if v.status != "landed"] or ["all landed"]
    wanted = [f"{t}: {v}" for t, v in outcome.damage.expected.items()] or ["all landed"]
    verdict, after = "ok  " if outcome.ok else "FAIL", f" on day {outcome.days}" if outcome.days > 1 else ""
    said = "; ".join(line[:200] for line in told) + after
    return f"{verdict} {outcome.damage.name:42} expected {'; '.join(wanted)}\n{'':48}actual   {said}"


def write_day(folder: Path, *days: date) -> None:
    """Write the clean files from the first day to the last of the given."""
    folder.mkdir(parents=True, exist_ok=True)
    since, until = min(days), max(days)
    within = pl.date("year", "month", "day").is_between(since, until)
    for table in COLUMNS:
        write(bundled(table).filter(within), folder / f"{table}-{since}-{until}.csv")


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a file as the source does."""
    frame.write_csv(path, null_value="NA")


@cache
def bundled(table: str) -> pl.DataFrame:
    """Return the spring of the bundled year, typed."""
    from feature_repo.files import read_file

    return read_file(_bundled(table), COLUMNS[table]).frame.filter(pl.col("month").is_between(2, 4))


def _deliver(damage: Damage, day: date, home: Path, source: Path) -> Project:
    shutil.rmtree(source, ignore_errors=True)
    write_day(source, day - timedelta(days=1))
    flights = bundled("flights").filter(
        pl.date("year", "month", "day").is_between(day, day + timedelta(days=1))
    )
    weather = bundled("weather").filter(pl.date("year", "month", "day") == day)
    delivery = Delivery(day, flights, weather)
    if damage.change:
        delivery = damage.change(delivery)
    paths = source / f"flights-{day}.csv", source / f"weather-{day}.csv"
    write(delivery.flights, paths[0])
    write(delivery.weather, paths[1])
    if damage.spoil:
        damage.spoil(*paths)
    return open_project(Settings(home=home, source=str(source), mlflow_port=1))


def _take_in(project: Project, day: date, expected: Mapping[str, Told]) -> dict[str, Told]:
    before = project.lake.hashes() if "source" in expected else {}
    try:
        manifests = ingest_period(project, project.day(day))
    except SourceError as error:
        untouched = not before or project.lake.hashes() == before
        return {"source": Told("refused" if untouched else "half landed", str(error))}
    return {m.table: _read(project, m) for m in manifests}


def _read(project: Project, manifest: Manifest) -> Told:
    if manifest.status == "stopped":
        return Told("stopped", manifest.reasons)
    if manifest.quarantined:
        kept = read_quarantine(project.lake).filter(pl.col("batch_id") == manifest.batch_id)
        return Told("quarantined", "; ".join(sorted(set(kept["rules"]))), manifest.quarantined)
    if manifest.warnings:
        return Told("warned", manifest.warnings)
    return Told(manifest.status)


def _compare(expected: Mapping[str, Told], actual: Mapping[str, Told]) -> Iterator[str]:
    for table, want in expected.items():
        got = actual.get(table, Told("nothing"))
        if got.status != want.status or want.rule not in got.rule or got.rows != want.rows:
            yield f"{table}: expected {want}, got {got}"
    for table, got in actual.items():
        # A warning keeps nothing back: one that nobody asked for is no harm.
        if table not in expected and got.status not in ("landed", "warned"):
            yield f"{table}: expected it to land whole, got {got}"


def tell(outcome: Outcome) -> None:
    """Print an outcome for a person who waits."""
    print(show(outcome), file=sys.stderr, flush=True)
