"""The service's image, built and run as a container would be: a root that cannot be written, no root user.

buildah runs a container's commands, but never on a read-only root. So its mounted file system is run here
in namespaces of its own, by what the image says of itself: user, environment, folder and entry point.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.ports import find_free_port

PROJECT = Path(__file__).parent.parent
BASE = "localhost/perennial-base:bookworm"
NEEDED = {"buildah": "buildah", "debootstrap": "debootstrap", "unshare": "util-linux"}
SLOW_START = 120.0  # seconds after which a container that does not answer is a failure

# The container's own view of the machine: its root read-only, a home and a /tmp to write to.
ENTER = """
set -e
mount --make-rprivate /
for name in hosts resolv.conf; do
    touch "$ROOT/etc/$name"
    mount --bind "/etc/$name" "$ROOT/etc/$name"
done
mount --rbind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$HOME_FOLDER" "$ROOT/var/lib/perennial"
exec chroot --userspec="$USER_OF_IMAGE" --groups= "$ROOT" /usr/bin/env -i "$@"
"""


@dataclass(frozen=True)
class Container:
    """A running container: where it answers, and how long it took to be ready."""

    url: str
    seconds: float
    pid: int


def find_lacking() -> list[str]:
    """Return the Debian packages to install before an image can be built here."""
    return sorted(package for tool, package in NEEDED.items() if not shutil.which(tool))


def build_base() -> str:
    """Make the base image if it is not there yet; return its name."""
    _run([str(PROJECT / "infra/image/base.sh"), BASE])
    return BASE


def build_image(tag: str, model: Path | None = None, version: str = "", *, fresh: bool = False) -> str:
    """Build an image with a model baked in, or none; return its name."""
    words = ["--tag", tag, "--base", BASE]
    if model:
        words += ["--model", str(model), "--version", version]
    if fresh:
        words += ["--fresh", "yes"]
    _run([str(PROJECT / "infra/image/build.sh"), *words])
    return tag


def delete_image(tag: str) -> None:
    """Delete an image."""
    _run(["buildah", "rmi", tag])


def read_config(image: str) -> dict[str, Any]:
    """Return what the image says of itself: User, Env, Entrypoint and so on."""
    told = json.loads(_run(["buildah", "inspect", "--type", "image", image]))
    config: dict[str, Any] = told["OCIv1"]["config"]
    return config


def measure_size(image: str) -> float:
    """Return the size of the image's file system in MB."""
    with mounted(image) as root:
        told = _run(
            ["du", "--summarize", "--one-file-system", "--apparent-size", "--block-size=1", str(root)]
        )
    return int(told.split()[0]) / 1e6


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Give the file system of a new container of the image; it is deleted afterwards."""
    container = _run(["buildah", "from", "--pull-never", image]).strip()
    try:
        yield Path(_run(["buildah", "mount", container]).strip())
    finally:
        _run(["buildah", "rm", container])


@contextmanager
def running(image: str, home: Path, log: Path, **environment: str) -> Iterator[Container]:
    """Run a container of the image on a home until the end of the block, then stop it as an engine would."""
    config = read_config(image)
    port = find_free_port()
    # The network is this machine's: the address is kept to it, which a container's own would not need.
    given = {"PERENNIAL_HOST": "127.0.0.1", "PERENNIAL_SERVICE_PORT": str(port), **environment}
    values = dict(line.split("=", 1) for line in config["Env"]) | given
    user = config["User"]
    os.chown(home, *(int(number) for number in user.split(":")))
    with mounted(image) as root, log.open("ab") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"),
                *(f"--chdir={config['WorkingDir']}", *(f"{key}={value}" for key, value in values.items())),
                *config["Entrypoint"],
            ],
            env={**os.environ, "ROOT": str(root), "HOME_FOLDER": str(home), "USER_OF_IMAGE": user},
            stdout=output,
            stderr=output,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await_ready(url, process, log)
            yield Container(url, time.monotonic() - began, _find_child(process.pid))
        finally:
            stop(process)


def await_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the container says that it is ready."""
    until = time.monotonic() + SLOW_START
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(
        f"the container is not ready (exit code {process.poll()}): {log.read_text()[-3000:]}"
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the container's first process to end, as an engine does, and kill it if it does not."""
    child = _find_child(process.pid) if process.poll() is None else None
    if child:
        os.kill(child, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _run(command: list[str]) -> str:
    given = {"ENGINE": "buildah", "BUILDAH_ISOLATION": "chroot", "PYTHON": sys.executable}
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout
