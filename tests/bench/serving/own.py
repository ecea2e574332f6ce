"""Our own service with everything on: started by the stack's own commands, following a real registry."""

import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_repo.problem import PROBLEM
from feature_repo.settings import Settings
from tests.bench.serving.material import ROOT, Material, score_first, write_model
from tests.bench.serving.peers import Peer, Running, send_flight, send_flights
from tests.ports import find_free_port

CHAMPION = '"served_by":"champion"'
SHADOW = "challenger"  # the alias of a version that answers beside the champion and is not heard


class Own:
    """A home with values online, an MLflow server with two versions of the model, and the service on it."""

    def __init__(self, material: Material, folder: Path, workers: int = 1) -> None:
        home = folder / "home"
        home.mkdir(parents=True)
        shutil.copytree(material.home / "feast", home / "feast")
        self.folder = folder
        self.settings = Settings(
            home=home,
            mlflow_port=find_free_port(),
            service_port=find_free_port(),
            service_workers=workers,
        )
        self.package = write_model(material, folder / "package")
        self.registry: Running | None = None

    def start_registry(self, *, shadow: bool = False) -> None:
        """Start MLflow and register the model twice: a champion and the one before it, or its shadow too."""
        url = self.settings.mlflow_url
        self.registry = Running(self._build("mlflow", "/"), self.folder / "mlflow.log")
        _await(f"{url}/health")
        from mlflow import MlflowClient

        from services.models import Registry

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        client, registry = MlflowClient(tracking_uri=url), Registry(url, PROBLEM.name)
        made_by = client.create_run(client.create_experiment(PROBLEM.name)).info.run_id
        for alias in ("previous", "champion"):
            registry.set_alias(alias, registry.register(self.package, made_by, {}))
        if shadow:
            registry.set_alias(SHADOW, registry.register(self.package, made_by, {}))

    def build_peer(self) -> Peer:
        """Return the service as a peer."""
        return self._build("service", "/predict")

    def stop(self) -> None:
        """End the registry."""
        if self.registry:
            self.registry.stop()

    def _build(self, name: str, path: str) -> Peer:
        from flows.local.stack_services import build_services

        service: Any = next(one for one in build_services(self.settings) if one.name == name)
        environment: Mapping[str, str] = {**service.environment, "DO_NOT_TRACK": "1"}
        expected = CHAMPION if name == "service" else ""
        return Peer(
            "ours" if name == "service" else name,
            service.port,
            path,
            tuple(service.command),
            environment,
            send_flights,
            alone=send_flight,
            expected=expected,
            folder=ROOT,
        )


@contextmanager
def serve_own(material: Material, folder: Path, workers: int = 1) -> Iterator[Running]:
    """Run the service, and the registry that it follows, for as long as the block lasts."""
    own = Own(material, folder / "own", workers)
    try:
        own.start_registry()
        running = Running(own.build_peer(), folder / "service.log")
        try:
            body = json.dumps(material.flights[0]).encode()
            running.await_score(body, score_first(material))
            yield running
        finally:
            running.stop()
    finally:
        own.stop()


def _await(url: str, within: float = 90.0) -> None:
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.25)
    raise RuntimeError(f"{url}: no answer within {within:.0f} s (process {os.getpid()})")
