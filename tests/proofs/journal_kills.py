"""Real SIGKILL of service workers under load: no acknowledged prediction is missing from the journal.

Two BentoML services of four workers answer over HTTP; clients of each never pause. Workers are killed one
after the other, at any moment, by their process ids; after each kill the service must answer a request that
was sent after it. What a client read as a whole answer with status 200 counts as acknowledged. Requests
whose connection died with a worker are counted and sent anew.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from feature_repo.contract import Period
from feature_repo.settings import Settings
from flows.local.stack_services import PROJECT, build_environment
from services.journal import Journal
from services.schemas import EXAMPLE
from tests.ports import find_free_port

KILLS = 200
SERVICES, WORKERS, CLIENTS = 2, 4, 4
TURNS = 20  # requests on one connection
LIMIT = 120.0  # seconds in which a service must start, or answer after a kill
ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
Figure = dict[str, Any]


def measure(kills: int = KILLS) -> Iterator[Figure]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        homes = [Path(folder) / str(n) for n in range(SERVICES)]
        running = [stack.enter_context(start_service(home)) for home in homes]
        with ThreadPoolExecutor(SERVICES) as pool:
            list(pool.map(lambda one: one.endure(kills // SERVICES), running))
        stack.close()
        missing, acknowledged = 0, 0
        for home, one in zip(homes, running, strict=True):
            kept = Journal(home / "journal" / "journal.db").read_predictions(ALWAYS)["prediction_id"]
            acknowledged += len(one.acknowledged)
            missing += len(set(one.acknowledged) - set(kept))
        told = sum((one.told for one in running), Counter[str]())
    done = sum(one.kills for one in running)
    other = {name: count for name, count in told.items() if name not in {"200", "died"}}
    yield _figure("journal: kill -9 of service workers under load", done, f"{kills}", done == kills)
    few = 10 * kills
    yield _figure(
        "journal: predictions acknowledged meanwhile", acknowledged, f">= {few}", acknowledged >= few
    )
    yield _figure("journal: acknowledged predictions that it lacks", missing, "0", missing == 0)
    yield _figure("journal: requests that died with a worker, sent anew", told["died"], "none needed", True)
    yield _figure("journal: answers of a status other than 200", other, "none", not other)


class Service:
    """One service that was started here, its clients and what they were told."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.acknowledged: list[str] = []
        self.told: Counter[str] = Counter()
        self.kills = 0
        self._process = process
        self._url = url
        self._stop = threading.Event()
        self._answered_at = 0.0  # when the newest request was sent that has been answered

    def endure(self, kills: int) -> None:
        """Kill workers while clients ask."""
        draw = random.Random(kills)
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._ask, n) for n in range(CLIENTS)]
            try:
                self._await_answer()
                while self.kills < kills:
                    time.sleep(draw.uniform(0, 0.2))
                    victims = self._find_workers()
                    if len(victims) > 1:  # one goes on, so that there is load at the next kill
                        draw.choice(victims).kill()
                        self.kills += 1
                        self._await_answer()
            finally:
                self._stop.set()
            for client in clients:
                client.result()

    def _await_answer(self) -> None:
        since, end = time.monotonic(), time.monotonic() + LIMIT
        while self._answered_at <= since:
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"no answer {LIMIT:.0f} s after kill {self.kills}")
            time.sleep(0.005)

    def _find_workers(self) -> list[psutil.Process]:
        """Return the workers that have answered: those that were only just started have not yet."""
        return [one for one in _read_children(self._process.pid) if _has_opened_journal(one)]

    def _ask(self, number: int) -> None:
        """Ask without a pause; odd clients send lists."""
        body: Any = [EXAMPLE] * 3 if number % 2 else EXAMPLE
        while not self._stop.is_set():
            # A connection stays with its worker: new ones let those join that came for the killed.
            with httpx.Client(base_url=self._url, timeout=LIMIT) as client:
                for _ in range(TURNS):
                    if not self._post(client, body):
                        break

    def _post(self, client: httpx.Client, body: Any) -> bool:
        """Send one request; return whether its connection lives."""
        since = time.monotonic()
        try:
            answer = client.post("/predict", json=body)
        except httpx.TransportError:
            self.told["died"] += 1
            return False
        self.told[str(answer.status_code)] += 1
        if answer.status_code == 200:
            told = answer.json()
            self.acknowledged += [one["prediction_id"] for one in told.get("predictions", [told])]
            self._answered_at = max(self._answered_at, since)
        return True


@contextmanager
def start_service(home: Path) -> Iterator[Service]:
    """Run a BentoML service on a free port; nothing of it is left after."""
    home.mkdir()
    settings = Settings(
        home=home,
        service_port=find_free_port(),
        service_workers=WORKERS,
        mlflow_port=find_free_port(),  # nobody listens there: the prior answers, and is journalled
        poll_seconds=60,
    )
    options = f"--host {settings.host} --port {settings.service_port} --working-dir {PROJECT}".split()
    command = (sys.executable, "-m", "bentoml", "serve", "services.prediction:PredictionService", *options)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **build_environment(settings)}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _await_start(process, settings.service_url, home / "log")
        yield Service(process, settings.service_url)
    finally:
        family = _read_children(process.pid)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            family += _read_children(process.pid)
            process.kill()
            process.wait()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _await_start(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the service did not start: {log.read_text()[-2_000:]}")


def _read_children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _has_opened_journal(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(file.path.endswith("journal.db") for file in process.open_files())
    return False


def _figure(name: str, value: object, bar: str, ok: bool) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": ok}


if __name__ == "__main__":
    for figure in measure(int(sys.argv[1]) if sys.argv[1:] else KILLS):
        print(json.dumps(figure), flush=True)
