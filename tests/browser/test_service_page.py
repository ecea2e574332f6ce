"""The service's own page: a person tries a prediction without writing a client."""

import json
import subprocess
import sys

import pytest
from playwright.sync_api import Page, expect

from feature_repo.settings import to_environment
from tests.browser.conftest import Keep, World

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


def test_the_openapi_page_answers_a_prediction(world: World, page: Page, keep: Keep) -> None:
    """What `perennial example` prints, put into the page, is answered by the champion."""
    command = (sys.executable, "-m", "flows.cli", "example")
    environment = to_environment(world.settings)
    example = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    page.goto(f"{world.settings.service_url}/docs")
    page.get_by_label("Body of /predict").fill(example)
    page.get_by_role("button", name="Try /predict").click()
    told = page.locator("section", has_text="POST /predict").locator("pre")
    expect(told).to_contain_text("probability")
    told.scroll_into_view_if_needed()
    keep("service")
    status, _, body = told.inner_text().partition("\n")
    answer = json.loads(body)
    assert status == "200"
    assert answer["served_by"] == "champion"
    assert 0 <= answer["probability"] <= 1


def test_the_page_names_what_is_wrong_with_a_request(world: World, page: Page) -> None:
    """A body that is no request is answered by a 4xx that says what was expected."""
    page.goto(f"{world.settings.service_url}/docs")
    page.get_by_label("Body of /predict").fill("{}")
    page.get_by_role("button", name="Try /predict").click()
    told = page.locator("section", has_text="POST /predict").locator("pre")
    expect(told).to_contain_text("422")
    expect(told).to_contain_text("next_step")
