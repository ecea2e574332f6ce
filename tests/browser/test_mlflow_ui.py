"""The MLflow UI: versions are compared, the gate's card is read, and `champion` is moved."""

import re

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from flows.traffic import await_version
from tests.browser.conftest import Keep, World

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


def open_model(world: World, page: Page) -> None:
    """Open the model's page, without the assistant beside it."""
    page.goto(f"{world.settings.mlflow_url}/#/models/{world.project.problem.name}")
    page.get_by_role("button", name="Close").first.click()
    find_version(page, world.first).wait_for()


def find_version(page: Page, version: int) -> Locator:
    """Return the row of a version."""
    link = page.get_by_role("link", name=f"Version {version}", exact=True)
    return page.get_by_role("row").filter(has=link)


def test_two_versions_are_compared(world: World, page: Page, keep: Keep) -> None:
    """Two ticks and a button: parameters and metrics of both, side by side."""
    open_model(world, page)
    for version in (world.first, world.second):
        find_version(page, version).get_by_role("checkbox").check()
    keep("mlflow-versions")
    page.get_by_test_id("compareButton").click()
    expect(page.get_by_text("Comparing 2 Versions")).to_be_visible()
    expect(page.get_by_text("log_loss").first).to_be_attached()
    keep("mlflow-compare")


def test_the_gate_card_and_the_plots_are_opened(world: World, page: Page, keep: Keep) -> None:
    """From a version to its run's artifacts: each check of the gate, the plots, as pictures."""
    open_model(world, page)
    page.get_by_role("link", name=f"Version {world.second}", exact=True).click()
    page.get_by_role("link", name=re.compile("^until ")).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("gate.md", exact=True).click()
    expect(page.get_by_role("heading", name=f"Gate: version {world.second}")).to_be_visible()
    expect(page.get_by_role("cell", name="loads and answers in a clean process")).to_be_visible()
    keep("mlflow-gate")
    for plot in ("calibration.png", "importance.png"):
        page.get_by_text(plot, exact=True).first.click()
        expect(page.get_by_role("img", name=plot)).to_be_visible()
    keep("mlflow-plot")


@pytest.mark.parametrize("way", ["forth", "back"])
def test_the_service_follows_the_alias_that_a_person_moves(
    world: World, page: Page, keep: Keep, way: str
) -> None:
    """`champion`, set on the other version with the mouse, is what every worker says it serves."""
    settings = world.settings
    before = int(httpx.get(f"{settings.service_url}/live").json()["champion"])
    other = world.first if before == world.second else world.second
    open_model(world, page)
    row = find_version(page, other)
    aliases = row.get_by_role("cell").nth(-2)
    aliases.get_by_role("button").click()
    page.get_by_role("dialog").get_by_role("combobox").fill("champion")
    page.keyboard.press("Enter")
    keep(f"mlflow-alias-{way}")
    page.get_by_role("button", name="Save aliases").click()
    assert await_version(settings.service_url, other, settings.service_workers, limit=30) is not None
    page.reload()
    expect(find_version(page, other)).to_contain_text("champion")
