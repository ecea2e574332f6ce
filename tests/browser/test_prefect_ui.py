"""The Prefect UI: a person finds `retrain`, runs it with a reason of their own, and reads what came of it."""

import re
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Keep, World

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]

REASON = "asked for in the browser"
LIMIT = 600_000  # milliseconds for a run: a process of its own that imports, trains and judges


def test_retrain_is_found_run_with_a_parameter_and_read(world: World, page: Page, keep: Keep) -> None:
    """Search, custom run, parameter, submit; the run completes and its artifacts are there."""
    page.goto(world.settings.prefect_url)
    page.get_by_role("link", name="Deployments").first.click()
    page.get_by_placeholder("Search deployments").fill("retrain")
    # Until the list has followed the search, a click may meet a row that goes.
    expect(page.get_by_role("link", name="upkeep", exact=True)).to_have_count(0)
    page.wait_for_load_state("networkidle")
    page.get_by_role("link", name="retrain", exact=True).first.click()
    page.wait_for_url(re.compile(r"/deployments/deployment/"))
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_label("reason").fill(REASON)
    name = page.get_by_label("Run Name").input_value()
    page.wait_for_load_state("networkidle")  # a click before the form has its schema is lost
    keep("prefect-custom-run")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("link", name=name).first.click()
    page.get_by_role("tab", name="Job Variables").wait_for()
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=LIMIT)
    keep("prefect-run")
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("gate", exact=True).first).to_be_visible()
    expect(page.get_by_text("What the retrain came to").first).to_be_visible()
    keep("prefect-artifacts")
    run = UUID(re.search(r"[0-9a-f-]{36}", page.url)[0])  # type: ignore[index]
    told = httpx.get(f"{world.settings.prefect_url}/api/flow_runs/{run}").json()
    assert told["parameters"]["reason"] == REASON
    assert told["state"]["name"] == "Completed"
    newest = max(world.project.registry.versions())
    assert newest > world.second
