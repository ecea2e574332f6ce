"""One real stack and one real browser for all tests here; pictures of what they saw are kept."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from feature_repo.settings import Settings, load_settings
from tests.local_stack import land, live_through, settle, started_stack, train_first

if TYPE_CHECKING:
    from flows.project import Project

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WINDOW = {"width": 1280, "height": 800}
PATIENCE = 60_000  # milliseconds for a page of a busy machine
# Four weeks to learn from, then nine days of answers: a whole week of them has its labels by then.
FIRST, TRAINED, TODAY = date(2013, 1, 1), date(2013, 1, 29), date(2013, 2, 7)
KEPT = pytest.StashKey[Path]()

Keep = Callable[[str], None]


@dataclass(frozen=True)
class World:
    """A running stack in which two versions were trained, `first` answered and was judged."""

    settings: Settings
    project: "Project"
    first: int
    second: int
    answered: int


@pytest.fixture(scope="session")
def screens(pytestconfig: pytest.Config) -> Path:
    """Return the folder of pictures, in the home of the person who runs the tests; emptied first."""
    folder = load_settings().home / "screens"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pytestconfig.stash[KEPT] = folder
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say where the pictures are."""
    if KEPT in config.stash:
        terminalreporter.write_line(f"screenshots: {config.stash[KEPT]}")


@pytest.fixture(scope="session")
def world(screens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return the stack once a week of answers was judged and a second version trained."""
    settings = settle(tmp_path_factory.mktemp("home"))
    with started_stack(settings):
        yield _prepare(settings)


def _prepare(settings: Settings) -> World:
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from feature_repo.contract import Period
    from flows.features import materialize_period
    from flows.monitor import monitor
    from flows.project import open_project
    from flows.retrain import retrain

    project = open_project(settings)
    served = Period(project.day(TRAINED).since, project.day(TODAY).since)
    prefect = {PREFECT_API_URL: f"{settings.prefect_url}/api", PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(prefect):
        past = Period(project.day(FIRST).since, served.since)
        materialize_period(project, land(project, past), past)
        first = train_first(project, TRAINED)
        answered = live_through(project, served, per_day=250)
        assert len(monitor(until=served.until)["windows"]) == 1
        second = int(str(retrain(until=served.until, reason="nine more days")["version"]))
    return World(settings, project, first, second, answered)


@pytest.fixture(scope="session")
def browser(world: World) -> Iterator[Browser]:
    """Return Chromium. Without it these tests are in error, not left out."""
    # After the world: while Playwright holds its event loop, Prefect's flows cannot run theirs here.
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is not there; on Debian: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return a page of a visitor who was never there before."""
    context = browser.new_context(viewport=WINDOW)
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what the page showed when a test failed."""
    report = yield
    if report.when == "call" and report.failed and "page" in item.funcargs and KEPT in item.config.stash:
        item.funcargs["page"].screenshot(path=item.config.stash[KEPT] / f"failed-{item.name}.png")
    return report


@pytest.fixture
def keep(page: Page, screens: Path) -> Keep:
    """Return what keeps a picture of the page under a name."""

    def keep_screen(name: str) -> None:
        page.screenshot(path=screens / f"{name}.png")

    return keep_screen
