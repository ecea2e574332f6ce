"""What must hold on this machine before a stack can run, asked one by one."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from feature_repo.errors import RegistryUnavailable, StackError
from feature_repo.settings import Settings
from flows.cli.errors import INSTALL
from flows.local import processes
from flows.local.stack import ServiceStatus, check_health, read_live, read_stack
from flows.local.stack_services import build_services
from flows.terminal import Check, draw_live

if TYPE_CHECKING:
    from flows.project import Project

PYTHONS = ((3, 11), (3, 14))  # from, and below
LEAST_DISK = 2.0  # GB: a year of the bundled data, its models and its reports take about one
TOOLS = ("prefect", "mlflow", "bentoml", "feast", "great-expectations", "evidently", "scikit-learn")


def examine(settings: Settings) -> Iterator[Check]:
    """Yield the answers one by one."""
    yield _check_python()
    yield _check_tools()
    yield _check_home(settings)
    yield _check_disk(settings)
    stack = read_stack(settings.home)
    if stack is None or not stack.running:
        yield from _check_ports(settings)
        yield Check("stack", True, "not running; start it with `perennial up`")
        return
    for name, healthy in check_health(stack).items():
        yield _check_service(stack.service(name), healthy)
    live = read_live(settings)
    yield Check("serves", live is not None, draw_live(live), f"Read {settings.home / 'logs' / 'service.log'}")
    yield from _check_release(settings)


def _check_release(settings: Settings) -> Iterator[Check]:
    from flows.project import open_project
    from flows.retention import check_answers

    try:
        check_answers(settings.mlflow_url)  # MLflow's own client would try for minutes
    except RegistryUnavailable as error:
        yield Check("monitors", False, str(error.got), error.next_step)
    else:
        yield from check_monitors(open_project(settings))


def check_monitors(project: "Project") -> Iterator[Check]:
    """Yield the monitors that a promotion asks for, as it would find them now."""
    from flows.monitors import list_monitors

    try:
        aliases, versions = project.registry.aliases(), project.registry.versions()
    except RegistryUnavailable as error:
        yield Check("monitors", False, str(error.got), error.next_step)
        return
    # Before the first promotion: those of the model that it would be about.
    version = aliases.get("champion") or max(versions, default=None)
    for monitor in list_monitors(project, version):
        # A promotion of nothing needs no reference yet.
        required = monitor.required and (version is not None or monitor.name != "reference")
        answer = monitor.found if required else f"{monitor.found}; not required"
        yield Check(f"monitor {monitor.name}", monitor.live or not required, answer, monitor.next_step)


def _check_service(service: ServiceStatus, healthy: bool) -> Check:
    if service.background and not healthy:
        return Check(service.name, True, f"{service.state}; nothing waits for it")
    answer = "answers" if healthy else "does not answer"
    return Check(service.name, healthy, answer, f"Read {service.log}")


def _check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "python", PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1], version, "Use Python 3.11, 3.12 or 3.13"
    )


def _check_tools() -> Check:
    found, absent = [], []
    for tool in TOOLS:
        try:
            found.append(f"{tool} {importlib.metadata.version(tool)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(tool)
    answer = f"not installed: {', '.join(absent)}" if absent else ", ".join(found)
    return Check("packages", not absent, answer, f"Install what is locked anew: `{INSTALL}`")


def _check_home(settings: Settings) -> Check:
    nearest = settings.home
    while not nearest.exists():
        nearest = nearest.parent
    writable = os.access(nearest, os.W_OK)
    answer = str(settings.home) if writable else f"{nearest} cannot be written to"
    return Check("home", writable, answer, "Set PERENNIAL_HOME to a folder of yours")


def _check_disk(settings: Settings) -> Check:
    nearest = settings.home
    while not nearest.exists():
        nearest = nearest.parent
    free = shutil.disk_usage(nearest).free / 1e9
    return Check("disk", free >= LEAST_DISK, f"{free:.1f} GB free", f"Make room for {LEAST_DISK:.0f} GB")


def _check_ports(settings: Settings) -> Iterator[Check]:
    for service in build_services(settings):
        try:
            processes.check_port(service.host, service.port, service.name, service.setting)
        except StackError as error:
            yield Check(f"port {service.port}", False, f"held by {error.got}", error.next_step)
        else:
            yield Check(f"port {service.port}", True, f"free for {service.name}")
