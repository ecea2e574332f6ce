"""Prometheus and Alertmanager, and the only caller of their programs: their configuration, and what they say.

The configuration is infra/prometheus and infra/alertmanager as they are. Written here are only addresses:
lists of targets, the receiver of alerts, and where runbooks are read. The supervisor of the local stack
carries both processes on a folder of their own (`monitoring` in the home).
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feature_repo.errors import StackError
from feature_repo.lake import write_atomically
from feature_repo.settings import PREFIX, Settings
from flows.local.children import Service, fetch
from flows.local.stack import Stack, read_stack, running_stack, stop_stack
from flows.local.stack_services import PROJECT

INFRA = PROJECT / "infra"
RUNBOOKS = "http://127.0.0.1:8090/runbooks/"  # as written in infra
RECEIVER = "http://127.0.0.1:8090/alerts"
EXPECTED = "expected"  # a file: both were started here, and nobody said that they are to be gone
KEPT = "90d"  # of measurements: a season to compare with
DURATION = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])|(?<=: )(\d+)([smhd])$", re.MULTILINE)
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
PROGRAMS = {
    "prometheus": ("prometheus",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),  # Debian's name, then its maker's
}


@dataclass(frozen=True, slots=True)
class Target:
    """An address that Prometheus asks, and what became of the last time."""

    job: str
    url: str
    health: str
    trouble: str


@dataclass(frozen=True, slots=True)
class Watch:
    """What Prometheus and Alertmanager say of themselves.

    rules      alert rules that are loaded; `firing`: names of those that fire now
    receivers  names of those that Alertmanager tells
    """

    targets: tuple[Target, ...]
    rules: int
    firing: tuple[str, ...]
    receivers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all is asked, judged and told."""
        return all(t.health == "up" for t in self.targets) and bool(self.rules and self.receivers)


def find_folder(settings: Settings) -> Path:
    """Return where both keep what they write."""
    return settings.home / "monitoring"


def find_program(name: str) -> str:
    """Return the path of `prometheus` or `alertmanager`. Raises StackError if it is not installed."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/bin", "/usr/bin"))
    for program in PROGRAMS[name]:
        if found := shutil.which(program, path=path):
            return found
    raise StackError(
        f"{PROGRAMS[name][0]}, for alerts",
        got="no such command",
        expected="Prometheus 2.42 and Alertmanager 0.25, or newer",
        next_step="Install both: `apt-get install prometheus prometheus-alertmanager`.",
    )


@contextlib.contextmanager
def running_monitoring(
    settings: Settings, on_change: Callable[[Stack], None] = lambda stack: None, pace: float = 1.0
) -> Iterator[Stack]:
    """Start Alertmanager and Prometheus on a home, yield once both answer, and stop both at the end.

    Raises StackError if one is not installed, runs already or cannot start.
    """
    _refuse_second(settings)  # before its configuration is written over
    services = build_monitoring(settings)
    write_config(settings, pace)
    own = settings.model_copy(update={"home": find_folder(settings)})
    with running_stack(own, services, on_change) as stack:
        (find_folder(settings) / EXPECTED).touch()
        yield stack


def is_expected(settings: Settings) -> bool:
    """Return whether both ran on this home and `stop_monitoring` was not called since.

    However else they ended, by a kill or with the terminal that held them, they are missed.
    """
    return (find_folder(settings) / EXPECTED).exists()


def stop_monitoring(settings: Settings) -> bool:
    """Stop both, from any process, for good: nothing waits for them. Returns whether anything ran."""
    (find_folder(settings) / EXPECTED).unlink(missing_ok=True)
    return stop_stack(find_folder(settings))


def build_monitoring(settings: Settings) -> list[Service]:
    """Return both processes. Raises StackError if one is not installed."""
    folder = find_folder(settings)
    ports = {"alertmanager": settings.alertmanager_port, "prometheus": settings.prometheus_port}
    options = {
        "alertmanager": {
            "--config.file": folder / "alertmanager.yml",
            "--storage.path": folder / "alertmanager",
            "--cluster.listen-address": "",  # alone: no other one to agree with
        },
        "prometheus": {
            "--config.file": folder / "prometheus.yml",
            "--storage.tsdb.path": folder / "data",
            "--storage.tsdb.retention.time": KEPT,
        },
    }
    made = []
    for name, port in ports.items():
        url = f"http://{settings.host}:{port}"
        given = {
            **options[name],
            "--web.listen-address": f"{settings.host}:{port}",
            "--web.external-url": url,
        }
        made.append(
            Service(
                name=name,
                command=(find_program(name), *(f"{option}={value}" for option, value in given.items())),
                host=settings.host,
                port=port,
                setting=f"{PREFIX}{name.upper()}_PORT",
                health=f"{url}/-/ready",
                url=url,
                after=("alertmanager",) if name == "prometheus" else (),
                patience=60.0,
            )
        )
    return made


def write_config(settings: Settings, pace: float = 1.0) -> None:
    """Write what both run on, and have it checked. Raises StackError if it is not valid.

    pace  what all durations are multiplied with: a proof cannot wait for minutes
    """
    folder = find_folder(settings)
    ours = {RUNBOOKS: f"{settings.reports_url}/runbooks/", RECEIVER: find_receiver(settings)}
    sources = {
        "prometheus.yml": INFRA / "prometheus" / "prometheus.yml",
        "alertmanager.yml": INFRA / "alertmanager" / "alertmanager.yml",
        **{f"rules/{path.name}": path for path in sorted((INFRA / "prometheus" / "rules").glob("*.yml"))},
    }
    for name, source in sources.items():
        text = scale_durations(source.read_text(), pace)
        for written, meant in ours.items():
            text = text.replace(written, meant)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, text)
    write_targets(settings)
    _check("promtool", "check", "config", folder / "prometheus.yml")
    _check("amtool", "check-config", folder / "alertmanager.yml")


def find_receiver(settings: Settings) -> str:
    """Return where alerts are posted. Raises StackError if that is no address."""
    if not settings.alert_webhook:
        return f"{settings.reports_url}/alerts"
    if urlsplit(settings.alert_webhook).scheme not in ("http", "https"):
        raise StackError(
            f"{PREFIX}ALERT_WEBHOOK",
            got=settings.alert_webhook,
            expected="an address that begins with http:// or https://",
            next_step="Correct it, or leave it empty: alerts then go to the reports' own page.",
        )
    return settings.alert_webhook


def write_targets(settings: Settings) -> None:
    """Write the addresses that Prometheus asks; it follows a change by itself."""
    for job, addresses in find_targets(settings).items():
        path = find_folder(settings) / "targets" / f"{job}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps([{"targets": addresses}] if addresses else []))


def find_targets(settings: Settings) -> dict[str, list[str]]:
    """Return what is to be watched, by job: replicas in the place of the service, where they run."""
    from flows.local.replicas import find_folder as find_replicas

    def reach(port: int) -> str:
        return f"{settings.host}:{port}"

    found = {
        "service": [reach(settings.service_port)],
        "reports": [reach(settings.reports_port)],
        "balancer": [],
        "prometheus": [reach(settings.prometheus_port)],
        "alertmanager": [reach(settings.alertmanager_port)],
    }
    replicas = read_stack(find_replicas(settings))
    if replicas is not None and replicas.running:
        stack = read_stack(settings.home)
        alone = found["service"] if stack is not None and stack.running else []
        several = [urlsplit(one.url).netloc for one in replicas.services if one.name != "balancer"]
        found |= {"service": [*alone, *several], "balancer": [f"127.0.0.1:{settings.balancer_stats_port}"]}
    return found


def refresh_targets(settings: Settings) -> None:
    """Bring the targets up to date, where monitoring was ever started."""
    if find_folder(settings).is_dir():
        write_targets(settings)


def scale_durations(text: str, pace: float) -> str:
    """Return a configuration whose durations are multiplied; at a pace of 1 it is the same text."""

    def scale(found: re.Match[str]) -> str:
        count, unit = found[1] or found[3], found[2] or found[4]
        return f"{round(int(count) * SECONDS[unit] * 1_000 * pace)}ms"

    return text if pace == 1.0 else DURATION.sub(scale, text)


def require_monitoring(settings: Settings) -> Stack:
    """Return what runs. Raises StackError if nothing does."""
    stack = read_stack(find_folder(settings))
    if stack is None or not stack.running:
        raise StackError(
            f"monitoring of home {settings.home}",
            got="none running",
            expected="Prometheus and Alertmanager",
            next_step="Start them with `perennial monitoring up`.",
        )
    return stack


def read_watch(settings: Settings) -> Watch:
    """Ask both what they watch, judge and tell. Raises StackError if one does not answer."""
    prometheus = f"http://{settings.host}:{settings.prometheus_port}/api/v1"
    alertmanager = f"http://{settings.host}:{settings.alertmanager_port}/api/v2"
    targets = _ask(f"{prometheus}/targets?state=active")["data"]["activeTargets"]
    groups = _ask(f"{prometheus}/rules?type=alert")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return Watch(
        targets=tuple(
            Target(one["labels"]["job"], one["scrapeUrl"], one["health"], one["lastError"])
            for one in sorted(targets, key=lambda one: (one["labels"]["job"], one["scrapeUrl"]))
        ),
        rules=len(rules),
        firing=tuple(rule["name"] for rule in rules if rule.get("state") == "firing"),
        receivers=tuple(one["name"] for one in _ask(f"{alertmanager}/receivers")),
    )


def _ask(url: str) -> Any:
    try:
        return json.loads(fetch(url, 5.0) or b"")
    except ValueError:
        raise StackError(
            url,
            got="no answer that can be read",
            expected="JSON",
            next_step="Look at `perennial monitoring status` and the logs that it names.",
        ) from None


def _refuse_second(settings: Settings) -> None:
    stack = read_stack(find_folder(settings))
    if stack is not None and stack.running:
        raise StackError(
            f"monitoring of home {settings.home}",
            got="another that runs",
            expected="one Prometheus per home",
            next_step="Stop it with `perennial monitoring down`.",
        )


def _check(program: str, *words: object) -> None:
    """Have a configuration checked by the tool that comes with the program, where it did come."""
    if shutil.which(program) is None:
        return
    done = subprocess.run((program, *map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(
            f"{words[-1]}",
            got=(done.stderr or done.stdout).strip(),
            expected=f"a configuration that {program} finds valid",
            next_step=f"Look at {INFRA} and the addresses in the settings.",
        )
