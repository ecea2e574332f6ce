"""The wiring point: settings become the objects that the flows pass around."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl

from expectations.rules import Rule
from feature_repo.contract import Fetch, Lookup, Period, Problem
from feature_repo.lake import Lake
from feature_repo.settings import Settings, load_settings
from flows.releasing.release_state import ReleaseState

if TYPE_CHECKING:
    from feature_repo.store import FeatureStore
    from services.journal import Journal
    from services.models import Registry

Suite = Callable[[str, Period], Sequence[Rule]]
AddColumns = Callable[[str, pl.DataFrame, Lookup], pl.DataFrame]


@dataclass(frozen=True)
class Project:
    """One problem on one home: its data, rules, estimator and the tools that hold its state."""

    settings: Settings
    problem: Problem
    fetch: Fetch
    suite: Suite
    add_check_columns: AddColumns
    build_estimator: Callable[[Problem], Any]
    lake: Lake

    @cached_property
    def store(self) -> "FeatureStore":
        """The feature store; importing Feast takes seconds, so it is opened when first used."""
        from feature_repo.store import FeatureStore

        _ = self.definitions
        store = FeatureStore(self.settings.home, self.problem)
        store.apply()
        return store

    @cached_property
    def definitions(self) -> Mapping[str, Mapping[str, Any]]:
        """What defines each feature table, by name, none changed under a live model.

        Raises DefinitionChanged; asked before anything of the features is registered or computed.
        """
        from flows.live_definitions import require_unchanged

        return require_unchanged(self)

    @cached_property
    def journal(self) -> "Journal":
        """The journal of predictions and outcomes."""
        from services.journal import Journal

        return Journal(self.settings.home / "journal" / "journal.db")

    @cached_property
    def registry(self) -> "Registry":
        """The model registry."""
        from services.models import Registry

        return Registry(self.settings.mlflow_url, self.problem.name)

    @cached_property
    def releases(self) -> ReleaseState:
        """The record of what served."""
        return ReleaseState(self.settings.home)

    def package(self, version: int) -> Path:
        """Return the folder of a model version, fetched from the registry once."""
        folder = self.settings.home / "packages" / str(version)
        return folder if folder.is_dir() else self.registry.download(version, folder)

    def day(self, day: date) -> Period:
        """Return a local day of the problem's time zone as a period: 23, 24 or 25 hours."""
        return cut_day(self.problem.time_zone, day)

    def local_day(self, instant: datetime) -> date:
        """Return the local date of an instant."""
        return instant.astimezone(ZoneInfo(self.problem.time_zone)).date()


def open_project(settings: Settings | None = None) -> Project:
    """Return the bundled problem on the home that the settings name."""
    from expectations import raw
    from feature_repo.problem import PROBLEM
    from feature_repo.source import open_source
    from flows.model import build_estimator

    settings = settings or load_settings()
    return Project(
        settings=settings,
        problem=PROBLEM,
        fetch=open_source(settings.source),
        suite=raw.suite,
        add_check_columns=raw.add_check_columns,
        build_estimator=build_estimator,
        lake=Lake(settings.home / "lake"),
    )


def cut_day(time_zone: str, day: date) -> Period:
    """Return a local day as a period: 23, 24 or 25 hours."""
    zone = ZoneInfo(time_zone)
    since = datetime(day.year, day.month, day.day, tzinfo=zone)
    until = datetime(*(day + timedelta(days=1)).timetuple()[:3], tzinfo=zone)
    return Period(to_utc(since), to_utc(until))


def to_utc(instant: datetime) -> datetime:
    """Return the same instant in UTC."""
    return instant.astimezone(ZoneInfo("UTC"))
