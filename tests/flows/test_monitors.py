"""What flows/monitors.py asks is what the real Prefect, Prometheus and Alertmanager answer."""

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest

from flows.monitors import list_monitors
from tests.incidents import save_block
from tests.ports import find_free_port

ALERTMANAGER = next(filter(shutil.which, ("prometheus-alertmanager", "alertmanager")), None)

RULES = """
groups:
  - name: service
    rules:
      - {alert: TooManyErrors, expr: "vector(0) > 1"}
"""
PROMETHEUS = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs:
  - job_name: service
    static_configs: [{{targets: ["127.0.0.1:{service}"]}}]
  - job_name: reports
    static_configs: [{{targets: ["127.0.0.1:{reports}"]}}]
"""
RECEIVER = """
route: {receiver: people}
receivers: [{name: people, webhook_configs: [{url: "http://127.0.0.1:1/"}]}]
"""


def find(project, name):
    """Return the monitor of that name as it is found now."""
    return next(monitor for monitor in list_monitors(project, None) if monitor.name == name)


def await_monitor(project, name, live, told="", seconds=60):
    """Ask until the monitor is as wanted; return True. Fails with what it is instead."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = find(project, name)
        if found.live == live and told in found.found:
            return True
        time.sleep(0.2)
    raise AssertionError(found)


def settle(project, **settings):
    """Return the project with other settings."""
    return replace(project, settings=project.settings.model_copy(update=settings))


def test_prefect_is_asked_about_schedules_and_blocks(prefect_server, make_toy):
    """Deployments as the runner registers them: live, paused, switched off; and a block by its name."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.schedules import Cron
    from prefect.settings import PREFECT_API_URL

    @flow(name="a-day")
    def a_day():
        pass

    port = urlsplit(PREFECT_API_URL.value()).port
    block = save_block("people-of-ours", "http://127.0.0.1:1/")
    project = settle(make_toy(), prefect_port=port, notify_block=block)
    assert "no deployment" in find(project, "schedule").found
    day = a_day.to_deployment("daily-loop", schedule=Cron("0 4 * * *")).apply()
    monitor = a_day.to_deployment("monitor").apply()
    try:
        assert find(project, "schedule").live
        assert "Custom Webhook" in find(project, "notify").found
        assert not find(settle(project, notify_block="custom-webhook/nobody"), "notify").live
        with get_client(sync_client=True) as client:
            client.pause_deployment(day)
            assert "daily-loop is paused" in find(project, "schedule").found
            client.resume_deployment(day)
            assert find(project, "schedule").live
            (schedule,) = client.read_deployment(day).schedules
            client.update_deployment_schedule(day, schedule.id, active=False)
            assert "inactive" in find(project, "schedule").found
    finally:
        with get_client(sync_client=True) as client:
            for deployment in (day, monitor):
                client.delete_deployment(deployment)


@contextmanager
def running(*command):
    """Run a server until the block ends."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def write_configs(folder, ports):
    """Write what both servers run on."""
    (folder / "rules.yml").write_text(RULES)
    told = {"rules": folder / "rules.yml", **ports}
    (folder / "prometheus.yml").write_text(PROMETHEUS.format(**told))
    (folder / "alertmanager.yml").write_text(RECEIVER)


@pytest.mark.skipif(
    not (ALERTMANAGER and shutil.which("prometheus")), reason="Prometheus and Alertmanager are not installed"
)
def test_prometheus_and_alertmanager_are_asked_about_targets_rules_and_receivers(
    make_toy, tmp_path, monkeypatch
):
    """All is found live; then a target dies, a rule file holds more than is loaded, and the route is lost."""
    ports = {name: find_free_port() for name in ("service", "reports", "prometheus", "alertmanager")}
    write_configs(tmp_path, ports)
    monkeypatch.setattr("flows.monitors.RULES", tmp_path)
    project = settle(make_toy(), monitoring="on", **{f"{name}_port": port for name, port in ports.items()})
    (tmp_path / "metrics").write_text("a_metric 1\n")
    page = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path))
    with ExitStack() as stack:
        pages = [stack.enter_context(running(*page, str(ports[name]))) for name in ("service", "reports")]
        stack.enter_context(
            running(
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
                "--web.enable-lifecycle",
            )
        )
        alertmanager = stack.enter_context(
            running(
                ALERTMANAGER,
                f"--config.file={tmp_path / 'alertmanager.yml'}",
                f"--storage.path={tmp_path / 'alerts'}",
                f"--web.listen-address=127.0.0.1:{ports['alertmanager']}",
                "--cluster.listen-address=",
            )
        )
        for name in ("scrape", "rules", "route"):
            assert await_monitor(project, name, True)
        pages[0].kill()
        assert await_monitor(project, "scrape", False, f":{ports['service']}/metrics is down")
        (tmp_path / "rules.yml").write_text(RULES + '      - {alert: Another, expr: "vector(0) > 1"}\n')
        assert find(project, "rules").found == "not loaded: Another"
        httpx.post(f"http://127.0.0.1:{ports['prometheus']}/-/reload", timeout=10).raise_for_status()
        assert await_monitor(project, "rules", True)
        (tmp_path / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        httpx.post(f"http://127.0.0.1:{ports['alertmanager']}/-/reload", timeout=10).raise_for_status()
        # Prometheus knows no Alertmanager for a moment after it was told to read its file again.
        assert await_monitor(project, "route", False, "'nobody' sends nowhere")
        alertmanager.kill()
        alertmanager.wait()
        assert "does not answer" in find(project, "route").found
