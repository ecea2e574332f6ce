"""Fixtures that many tests share."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from feature_repo.contract import Period
from feature_repo.lake import Lake
from feature_repo.settings import Settings
from flows.project import Project
from tests import toy
from tests.recording import pytest_addoption, pytest_runtest_logreport, pytest_sessionfinish

__all__ = [
    "pytest_addoption",
    "pytest_runtest_logreport",
    "pytest_sessionfinish",
]  # hooks: pytest finds them here


@pytest.fixture
def make_toy(tmp_path: Path) -> Callable[..., Project]:
    """Return a maker of toy projects, each on a home of its own."""

    def make(home: str = "home", days: int = 30) -> Project:
        # Nobody answers at this port, whatever else runs on the machine.
        settings = Settings(home=tmp_path / home, mlflow_port=1)
        return Project(
            settings=settings,
            problem=toy.TOY,
            fetch=toy.open_toy_source(days),
            suite=toy.suite,
            add_check_columns=toy.add_check_columns,
            build_estimator=toy.build_estimator,
            lake=Lake(settings.home / "lake"),
        )

    return make


@pytest.fixture
def toy_day() -> Callable[[int], Period]:
    """Return the n-th day of the toy problem as a period."""
    return lambda n: Period(toy.START + timedelta(days=n), toy.START + timedelta(days=n + 1))
