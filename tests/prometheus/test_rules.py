"""Rules, routes, runbooks and dashboards: checked by Prometheus' and Alertmanager's own tools."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.main import get_command

from feature_repo.settings import Settings
from flows.cli.app import app
from flows.local.prometheus import INFRA, scale_durations, write_config

RULES = INFRA / "prometheus" / "rules"
TESTS = INFRA / "prometheus" / "tests" / "rules_test.yml"
ALERTS = [
    rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in ALERTS]
# Without them on a developer's machine these are left out; in CI they never are.
needs_tools = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("promtool") and shutil.which("amtool")),
    reason="Prometheus is not installed: apt-get install prometheus prometheus-alertmanager",
)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a tool."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)


def load_dashboards() -> ModuleType:
    """Return the module that makes the dashboards: it is no part of a package."""
    spec = importlib.util.spec_from_file_location("dashboards", INFRA / "grafana" / "dashboards.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@needs_tools
def test_every_alert_fires_and_clears_in_promtool() -> None:
    """`promtool test rules` passes: each alert has its cause, and its end."""
    done = run("promtool", "test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_tools
def test_a_broken_rule_is_noticed_by_these_tests(tmp_path: Path) -> None:
    """With a threshold that nothing reaches the tests fail: they can."""
    shutil.copytree(RULES, tmp_path / "rules")
    alerts = tmp_path / "rules" / "alerts.yml"
    alerts.write_text(alerts.read_text().replace("champion_ratio_rate5m < 0.95", "champion_ratio_rate5m < 0"))
    (tmp_path / "tests").mkdir()
    tests = tmp_path / "tests" / "rules_test.yml"
    tests.write_text(TESTS.read_text())
    done = run("promtool", "test", "rules", tests)
    assert done.returncode != 0
    assert "CoverageLow" in done.stdout + done.stderr


def test_every_alert_has_a_test_for_both_directions() -> None:
    """Whoever adds an alert adds what makes it fire and what ends it."""
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    both = {
        one["name"]: [bool(expected["exp_samples"]) for expected in one["promql_expr_test"]]
        for one in tests
        if one["name"] in NAMES
    }
    assert both == {name: [True, False] for name in NAMES}


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_names_severity_incident_and_runbook(rule: dict[str, Any]) -> None:
    """What Alertmanager groups by is there, and so is the page that the message links."""
    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    assert rule["labels"]["incident"]
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    page = INFRA / "runbooks" / rule["annotations"]["runbook_url"].rpartition("/")[2]
    assert page.read_text().startswith(f"# {rule['alert']}\n")


def test_every_runbook_is_of_an_alert_and_names_commands_that_exist() -> None:
    """No page outlives its alert, links nowhere, or sends people to a command that is not there."""
    pages = sorted((INFRA / "runbooks").glob("*.md"))
    assert len(pages) == len(NAMES)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for page in pages:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (page.parent / link).is_file(), (page.name, link)
        for words in re.findall(r"`perennial ([^`]+)`", text):
            first, *rest = words.split()
            assert first in commands, (page.name, words)
            if rest and rest[0].isalpha() and rest[0].islower():
                assert rest[0] in commands[first].commands, (page.name, words)


def test_inhibitions_name_alerts_and_incidents_that_exist() -> None:
    """A renamed alert would otherwise silence nothing, silently."""
    config = yaml.safe_load((INFRA / "alertmanager" / "alertmanager.yml").read_text())
    incidents = {rule["labels"]["incident"] for rule in ALERTS}
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            label, values = re.match(r"(\w+) =~? \"?([^\"]+)\"?", matcher).groups()  # type: ignore[union-attr]
            known = incidents if label == "incident" else set(NAMES)
            assert set(values.split("|")) <= known, matcher


@needs_tools
@pytest.mark.parametrize("pace", [1.0, 1 / 20])
def test_the_configuration_of_a_home_is_valid_at_any_pace(tmp_path: Path, pace: float) -> None:
    """promtool and amtool find nothing; addresses are the home's own."""
    settings = Settings(
        home=tmp_path, reports_port=18090, service_port=13000, alert_webhook="http://a.test/b"
    )
    write_config(settings, pace)
    folder = tmp_path / "monitoring"
    assert json.loads((folder / "targets" / "service.json").read_text()) == [{"targets": ["127.0.0.1:13000"]}]
    assert "http://a.test/b" in (folder / "alertmanager.yml").read_text()
    assert "http://127.0.0.1:18090/runbooks/service-down.md" in (folder / "rules" / "alerts.yml").read_text()


def test_durations_are_scaled_everywhere_and_numbers_nowhere() -> None:
    """Windows, holds and intervals shrink; thresholds in seconds do not."""
    text = "for: 5m\nexpr: x[1h] > 2 * 86400\ngroup_wait: 30s\n"
    assert scale_durations(text, 0.1) == "for: 30000ms\nexpr: x[360000ms] > 2 * 86400\ngroup_wait: 3000ms\n"
    assert scale_durations(text, 1.0) == text


def test_dashboards_are_those_that_their_module_makes() -> None:
    """The JSON that Grafana reads is never edited by hand."""
    made = load_dashboards().render()
    assert made == {path.name: path.read_text() for path in (INFRA / "grafana" / "dashboards").glob("*.json")}


def test_every_recording_that_a_dashboard_reads_is_recorded() -> None:
    """A panel on a rule that is gone would stay empty."""
    groups = yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    read = {
        name
        for _, _, query in load_dashboards().list_queries()
        for name in re.findall(r"perennial:[\w:]+", query)
    }
    assert read
    assert read <= recorded
