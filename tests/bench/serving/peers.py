"""The servers of the bench: how each is started, with one worker, and what it is sent."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_repo.problem import PROBLEM
from tests.bench.serving.material import BATCH, ROOT, Material
from tests.ports import find_free_port

STARTING = 120.0  # seconds
NAMES = list(PROBLEM.feature_names)
Bodies = Callable[[Material, Sequence[int]], Any]


@dataclass(frozen=True)
class Peer:
    """One server: its process, and the request that it takes."""

    name: str
    port: int
    path: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    build_body: Bodies  # (material, numbers of the rows) -> what is sent as JSON
    alone: Bodies | None = None  # for a single row, if it is sent otherwise
    expected: str = ""  # what each answer must contain
    folder: Path = field(default=ROOT)

    def write_bodies(self, material: Material, folder: Path) -> dict[int, Path]:
        """Write one file of single rows and one of batches, all rows of the material in turn."""
        count = len(material.inputs)
        one = self.alone or self.build_body
        bodies = {1: [one(material, [i]) for i in range(count)]}
        batches = [[(start + i) % count for i in range(BATCH)] for start in range(0, count, 37)]
        bodies[BATCH] = [self.build_body(material, rows) for rows in batches]
        files = {}
        for size, told in bodies.items():
            files[size] = folder / f"{self.name}-{size}.jsonl"
            files[size].write_text("".join(json.dumps(body) + "\n" for body in told))
        return files


class Running:
    """A peer's process group, from start to stop."""

    def __init__(self, peer: Peer, log: Path) -> None:
        self.peer = peer
        self.log = log
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **peer.environment}
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                peer.command,
                cwd=peer.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_score(self, body: bytes, score: float, within: float = STARTING) -> None:
        """Return when the peer answers with the model's own score; raise RuntimeError if it does not."""
        until, told = time.monotonic() + within, ""
        while time.monotonic() < until and self.process.poll() is None:
            told = self.ask(body)
            if _holds(told, score) and self.peer.expected in told:
                return
            time.sleep(0.25)
        tail = self.log.read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"{self.peer.name}: expected {score}, got {told[:1_000] or 'no answer'}; {tail}")

    def ask(self, body: bytes) -> str:
        """Return what the peer answers; empty if it does not."""
        url, kind = f"http://127.0.0.1:{self.peer.port}{self.peer.path}", {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode(errors='replace')}"
        except OSError:
            return ""

    def stop(self) -> None:
        """End the peer and everything that it started."""
        for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def send_flights(material: Material, rows: Sequence[int]) -> Any:
    """Flights, as clients of our own service send them."""
    return [material.flights[i] for i in rows]


def send_flight(material: Material, rows: Sequence[int]) -> Any:
    """One flight."""
    return material.flights[rows[0]]


def send_numbers(material: Material, rows: Sequence[int]) -> Any:
    """The trees' numbers, row by row."""
    return [material.encoded[i] for i in rows]


def send_split(material: Material, rows: Sequence[int]) -> Any:
    """The pipeline's inputs, in MLflow's shorter format."""
    data = [[material.inputs[i][name] for name in NAMES] for i in rows]
    return {"dataframe_split": {"columns": NAMES, "data": data}}


def send_inputs(material: Material, rows: Sequence[int]) -> Any:
    """The pipeline's inputs by name, as BentoML takes a DataFrame."""
    return {"rows": [material.inputs[i] for i in rows]}


def send_named_numbers(material: Material, rows: Sequence[int]) -> Any:
    """The trees' numbers by name."""
    return {"rows": [dict(zip(NAMES, material.encoded[i], strict=True)) for i in rows]}


def send_tensor(material: Material, rows: Sequence[int]) -> Any:
    """The trees' numbers, by the open inference protocol."""
    numbers = [material.encoded[i] for i in rows]
    shape = [len(numbers), len(NAMES)]
    tensor = {"name": "rows", "shape": shape, "datatype": "FP64", "data": numbers}
    return {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]}


def build_peers(material: Material, python: str, theirs: str) -> dict[str, Callable[[Path], Peer]]:
    """Return how to build each peer but our own, by name; `theirs` is the Python of the peers' own set."""
    from services.package import TRUSTED_TYPES

    files = {
        "BENCH_TREES": str(material.folder / "trees.joblib"),
        "BENCH_MODEL": str(material.folder / "model.skops"),
        "BENCH_TRUSTED": ",".join(TRUSTED_TYPES),
    }
    return {
        "bare": lambda folder: _build_bare(python, files),
        "mlflow": lambda folder: _build_mlflow(material, python, folder),
        "bento-frame": lambda folder: _build_bento(python, "bento_frame:Frame", send_inputs, folder, files),
        "bento-pydantic": lambda folder: _build_bento(
            python, "bento_pydantic:Checked", send_named_numbers, folder, files
        ),
        "mlserver-mlflow": lambda folder: _build_mlserver(material, theirs, folder, "mlflow"),
        "mlserver-sklearn": lambda folder: _build_mlserver(material, theirs, folder, "sklearn"),
        "ray": lambda folder: _build_ray(theirs, folder, files),
    }


def _build_bare(python: str, files: Mapping[str, str]) -> Peer:
    port = find_free_port()
    words = ("-m", "uvicorn", "tests.bench.serving.bare:app", "--port", str(port), "--no-access-log")
    return Peer("bare", port, "/", (python, *words, "--log-level", "warning"), files, send_numbers)


def _build_mlflow(material: Material, python: str, folder: Path) -> Peer:
    port, model = find_free_port(), save_mlflow_model(material, folder / "mlflow-model")
    words = ("models", "serve", "-m", str(model), "--env-manager", "local", "-p", str(port), "-w", "1")
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": _put_first(python)}
    return Peer("mlflow", port, "/invocations", (python, "-m", "mlflow", *words), environment, send_split)


def _build_bento(python: str, app: str, body: Bodies, folder: Path, files: Mapping[str, str]) -> Peer:
    port, names = find_free_port(), folder / "names.json"
    names.write_text(json.dumps(NAMES))
    words = ("-m", "bentoml", "serve", f"tests.bench.serving.{app}", "--host", "127.0.0.1")
    environment = {
        **files,
        "BENCH_NAMES": str(names),
        "BENTOML_HOME": str(folder / "bentoml"),
        "DO_NOT_TRACK": "1",
    }
    name = app.partition(":")[0].replace("_", "-")
    command = (python, *words, "--port", str(port), "--working-dir", str(ROOT))
    return Peer(name, port, "/predict", command, environment, body)


def _build_mlserver(material: Material, python: str, folder: Path, runtime: str) -> Peer:
    own = folder / f"mlserver-{runtime}"
    own.mkdir()
    port, others = find_free_port(), (find_free_port(), find_free_port())
    # No process of its own for the model: what crosses processes costs more than the model.
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": others[0],
        "metrics_port": others[1],
        "parallel_workers": 0,
        "debug": False,
    }
    (own / "settings.json").write_text(json.dumps(settings))
    mlflow = runtime == "mlflow"
    model = save_mlflow_model(material, own / "model") if mlflow else material.folder / "trees.joblib"
    kind = "mlserver_mlflow.MLflowRuntime" if mlflow else "mlserver_sklearn.SKLearnModel"
    told = {"name": "trees", "implementation": kind, "parameters": {"uri": str(model)}}
    (own / "model-settings.json").write_text(json.dumps(told))
    path, body = ("/invocations", send_split) if mlflow else ("/v2/models/trees/infer", send_tensor)
    command = (str(Path(python).with_name("mlserver")), "start", str(own))
    return Peer(f"mlserver-{runtime}", port, path, command, {"PATH": _put_first(python)}, body)


def _build_ray(python: str, folder: Path, files: Mapping[str, str]) -> Peer:
    port = find_free_port()
    # A short path: Ray's sockets lie below it, and a socket's path has at most 107 characters.
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command = (python, str(ROOT / "tests/bench/serving/ray_app.py"), str(port), scratch)
    environment = {**files, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return Peer("ray", port, "/", command, environment, send_numbers, folder=folder)


def save_mlflow_model(material: Material, folder: Path) -> Path:
    """Save the pipeline as MLflow does, answering with probabilities."""
    import warnings

    import mlflow

    from services.package import TRUSTED_TYPES
    from tests.bench.serving.material import to_frame

    pipeline, sample = material.load_estimator(), to_frame(material.inputs[:100])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            pipeline,
            str(folder),
            serialization_format="skops",
            skops_trusted_types=list(TRUSTED_TYPES),
            pip_requirements=["scikit-learn", "skops", "pandas"],
            pyfunc_predict_fn="predict_proba",
            signature=mlflow.models.infer_signature(sample, pipeline.predict_proba(sample)),
        )
    return folder


def _put_first(python: str) -> str:
    return f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"


def _holds(told: str, score: float) -> bool:
    try:
        return any(abs(number - score) < 1e-6 for number in _collect(json.loads(told)))
    except ValueError:
        return False


def _collect(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in _collect(part)]
