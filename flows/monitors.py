"""Which monitors are live, asked of those who know: the model's package, Prefect, Prometheus, Alertmanager.

Closed by default: who does not answer, or answers what cannot be read, is not live.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from feature_repo.errors import MonitorsDown, PerennialError, SettingsError
from feature_repo.settings import Settings
from flows.local.prometheus import is_expected
from flows.local.stack_services import PROJECT
from flows.project import Project

NAMES = ("reference", "schedule", "scrape", "rules", "route", "notify")
OF_PROMETHEUS = ("scrape", "rules", "route")
DEPLOYMENTS = ("daily-loop", "monitor")  # the first runs the monitor by itself, the second by hand
RULES = PROJECT / "infra" / "prometheus" / "rules"
PATIENCE = 5.0  # seconds

Found = tuple[bool, str]  # whether it is live, and what was found


@dataclass(frozen=True, slots=True)
class Monitor:
    """One monitor: whether it is live, whether a promotion needs it, what was found and what to do."""

    name: str
    live: bool
    required: bool
    found: str
    next_step: str


def require_monitors(project: Project, version: int) -> None:
    """Return if every required monitor of the version is live. Raises MonitorsDown, which names the rest."""
    down = [m for m in list_monitors(project, version) if m.required and not m.live]
    if down:
        raise MonitorsDown(
            f"promotion of version {version}",
            got="; ".join(f"{monitor.name}: {monitor.found}" for monitor in down),
            expected="every required monitor live before the model is",
            next_step=" ".join(monitor.next_step for monitor in down),
        )


def list_monitors(project: Project, version: int | None) -> Iterator[Monitor]:
    """Yield every monitor as it is now; the reference profile is that of the version."""
    settings, needed = project.settings, read_required(project.settings)
    checks: dict[str, tuple[Callable[[], Found], str]] = {
        "reference": (
            lambda: (
                _check_reference(project.package(version)) if version else (False, "no model to have one")
            ),
            "Train the model again: its package must hold what its data looked like.",
        ),
        "schedule": (
            partial(_check_schedule, settings),
            "Start the stack with `perennial up`, or resume deployment and schedule in the Prefect UI.",
        ),
        "scrape": (
            partial(_check_scrape, settings),
            f"Run `perennial monitoring up`, or `down` to go without: {settings.prometheus_url}/targets.",
        ),
        "rules": (
            partial(_check_rules, settings),
            f"Load the rule files of infra into Prometheus; what it holds: {settings.prometheus_url}/rules.",
        ),
        "route": (
            partial(_check_route, settings),
            f"Give the Alertmanager a receiver that sends somewhere; it runs at {settings.alertmanager_url}.",
        ),
        "notify": (
            partial(_check_notify, settings),
            "Save the notification block that PERENNIAL_NOTIFY_BLOCK names, as type/name, or unset it.",
        ),
    }
    for name, (check, next_step) in checks.items():
        live, found = _ask_safely(check)
        yield Monitor(name, live, name in needed, found, next_step)


def read_required(settings: Settings) -> set[str]:
    """Return the monitors that a promotion needs. Raises SettingsError if one is unknown."""
    wanted = {name.strip() for name in settings.required_monitors.split(",") if name.strip()}
    if unknown := sorted(wanted - set(NAMES)):
        raise SettingsError(
            "PERENNIAL_REQUIRED_MONITORS",
            got=", ".join(unknown),
            expected=f"some of {', '.join(NAMES)}",
            next_step="Correct the names.",
        )
    return wanted if _is_monitored(settings) else wanted - set(OF_PROMETHEUS)


def _is_monitored(settings: Settings) -> bool:
    return settings.monitoring == "on" or (settings.monitoring == "auto" and is_expected(settings))


def _check_reference(package: Path) -> Found:
    import polars as pl

    from feature_repo.lake import content_hash

    contract = json.loads((package / "contract.json").read_text())
    reference = pl.read_parquet(package / "reference.parquet")
    if not len(reference):
        return False, "a reference profile without rows"
    lacking = sorted({f["name"] for f in contract["features"]} - set(reference.columns))
    if lacking:
        return False, f"a reference profile without {', '.join(lacking)}"
    promised = contract.get("reference", {}).get("sha256")
    if promised and promised != content_hash(reference):
        return False, "a reference profile that is not the one the model was registered with"
    return True, f"{len(reference):,} rows to compare with"


def _check_schedule(settings: Settings) -> Found:
    wanted = {"deployments": {"name": {"any_": list(DEPLOYMENTS)}}}
    found = {d["name"]: d for d in _ask(f"{settings.prefect_url}/api/deployments/filter", wanted)}
    for name in DEPLOYMENTS:
        if name not in found:
            return False, f"no deployment {name}"
        if found[name]["paused"]:
            return False, f"deployment {name} is paused"
    schedules = [schedule for name in DEPLOYMENTS for schedule in found[name]["schedules"]]
    if not schedules:
        return False, f"no schedule of {' or '.join(DEPLOYMENTS)}"
    if settings.schedules and not any(schedule["active"] for schedule in schedules):
        return False, f"the schedule of {' and '.join(DEPLOYMENTS)} is inactive"
    return True, f"{DEPLOYMENTS[0]} runs the monitor" + (
        "" if settings.schedules else "; PERENNIAL_SCHEDULES is off: whoever replays days runs it"
    )


def _check_scrape(settings: Settings) -> Found:
    targets = _ask(f"{settings.prometheus_url}/api/v1/targets?state=active")["data"]["activeTargets"]
    down = [t for t in targets if t["health"] != "up"]
    if down:
        told = (f"{t['scrapeUrl']} is {t['health']} ({t.get('lastError') or 'not asked yet'})" for t in down)
        return False, "; ".join(told)
    needed = {"service": settings.service_port, "reports": settings.reports_port}
    for job, port in needed.items():
        if not any(t["labels"]["job"] == job or f":{port}/" in t["scrapeUrl"] for t in targets):
            return False, f"no target {job}, nor any on port {port}"
    return True, f"{len(targets)} targets up"


def _check_rules(settings: Settings) -> Found:
    groups = _ask(f"{settings.prometheus_url}/api/v1/rules")["data"]["groups"]
    loaded = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    wanted = read_rule_names(RULES)
    if not wanted:
        return False, f"no rule files under {RULES}"
    if absent := sorted(wanted - set(loaded)):
        return False, f"not loaded: {', '.join(absent)}"
    if broken := sorted(name for name in wanted if loaded[name] == "err"):
        return False, f"cannot be evaluated: {', '.join(broken)}"
    return True, f"{len(wanted)} rules loaded"


def _check_route(settings: Settings) -> Found:
    known = _ask(f"{settings.prometheus_url}/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    if not known:
        return False, "Prometheus knows no Alertmanager"
    import yaml

    config = yaml.safe_load(_ask(f"{settings.alertmanager_url}/api/v2/status")["config"]["original"])
    default = config["route"]["receiver"]
    receiver: dict[str, Any] = next((r for r in config["receivers"] if r["name"] == default), {})
    if not any(key.endswith("_configs") and value for key, value in receiver.items()):
        return False, f"the Alertmanager's receiver {default!r} sends nowhere"
    return True, f"alerts go to receiver {default!r}"


def _check_notify(settings: Settings) -> Found:
    if not settings.notify_block:
        return True, "no block is named: incidents are told in the runs alone"
    kind, _, name = settings.notify_block.partition("/")
    url = f"{settings.prefect_url}/api/block_types/slug/{kind}/block_documents/name/{name}"
    return True, f"block {settings.notify_block} of {_ask(url)['block_type']['name']}"


def read_rule_names(folder: Path) -> set[str]:
    """Return the names of the alerts and recordings in the rule files under a folder."""
    import yaml

    names: set[str] = set()
    for path in sorted([*folder.rglob("*.yml"), *folder.rglob("*.yaml")]):
        for document in yaml.safe_load_all(path.read_text()):
            groups = document.get("groups") if isinstance(document, dict) else None
            for group in groups or []:
                names |= {rule.get("alert") or rule["record"] for rule in group.get("rules", [])}
    return names


def _ask(url: str, body: Any = None) -> Any:
    import httpx

    answer = httpx.post(url, json=body, timeout=PATIENCE) if body else httpx.get(url, timeout=PATIENCE)
    return answer.raise_for_status().json()


def _ask_safely(check: Callable[[], Found]) -> Found:
    import httpx
    import polars as pl
    import yaml

    malformed = (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, pl.exceptions.PolarsError)
    try:
        return check()
    except httpx.HTTPStatusError as error:
        return False, f"{error.request.url} answered {error.response.status_code}"
    except httpx.HTTPError as error:
        return False, f"{error.request.url} does not answer ({type(error).__name__})"
    except PerennialError as error:
        return False, f"{error.subject}: {error.got}"
    except (OSError, *malformed) as error:
        return False, f"what was found cannot be read ({type(error).__name__}: {error})"
