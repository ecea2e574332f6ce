"""The Evidently UI and the reports pages: what the monitor saw can be opened."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Keep, World

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]

NEWEST = "20130129T0500-20130205T0500"  # the one week that was answered and whose labels have come


def test_the_latest_report_opens_in_evidently(world: World, page: Page, keep: Keep) -> None:
    """From the project to the newest window's report, with each feature's drift against the reference."""
    page.goto(world.settings.evidently_url)
    page.get_by_role("link", name=world.project.problem.name).first.click()
    page.get_by_role("tab", name="Reports").click()
    row = page.get_by_role("row").filter(has_text=f"{NEWEST}-v{world.first}")
    row.get_by_text("View", exact=True).click()
    expect(page.get_by_text("Drift in column 'carrier'")).to_be_visible()
    expect(page.get_by_text(re.compile("Drift detection method: PSI")).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.mouse.wheel(0, 100)
    keep("evidently-report")


def test_the_reports_pages_lead_to_the_drift_report(world: World, page: Page, keep: Keep) -> None:
    """The same report is a file that needs no UI, beside the validation pages."""
    page.goto(world.settings.reports_url)
    keep("reports")
    page.get_by_role("link", name=f"{NEWEST}-v{world.first}.html").click()
    expect(page.get_by_text("Drift in column 'carrier'")).to_be_visible()
