"""What must hold on this machine before a stack can run, asked one by one."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator

from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows import processes
from flows.stack import build_services, check_health, read_live, read_stack
from flows.terminal import Check, draw_live

OLDEST_PYTHON = (3, 11)
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
        log = stack.service(name).log
        yield Check(name, healthy, "answers" if healthy else "does not answer", f"Read {log}")
    live = read_live(settings)
    yield Check("serves", live is not None, draw_live(live), f"Read {settings.home / 'logs' / 'service.log'}")


def _check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= OLDEST_PYTHON, version, "Use Python 3.11 or newer")


def _check_tools() -> Check:
    found, absent = [], []
    for tool in TOOLS:
        try:
            found.append(f"{tool} {importlib.metadata.version(tool)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(tool)
    answer = f"not installed: {', '.join(absent)}" if absent else ", ".join(found)
    return Check("packages", not absent, answer, "Run `make demo` or `make up`: each installs what is locked")


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
