"""Our service with everything on, beside what serves the same model elsewhere.

    python tests/bench/bench_serving.py                             # the peers that are installed; 6 minutes
    python tests/bench/bench_serving.py --only ours,bare --rounds 3  # just these; 2 minutes
    python tests/bench/bench_serving.py --peers all                 # sets up MLServer and Ray Serve as well
    python tests/bench/bench_serving.py --only ours --flame var/bench  # and draw where the time goes

All serve the same 180 trees with one worker, and answer with the same scores (checked before the clock
runs). Our own reads its features online, checks, journals and counts; the others are handed the model's
inputs. Each request is one of some 1,800 different flights. Rounds are interleaved: a figure is the
median over them, and a ratio is taken within each round. `cpu` is the processor time of the server's
processes a request: what else the machine does hardly moves it, nor the ratio by it. The first run
prepares data for a minute.

Prints JSON lines, and a table on standard error.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.serving import installing  # noqa: E402
from tests.bench.serving.material import BATCH, FOLDER, Material, prepare, score_first  # noqa: E402
from tests.bench.serving.own import Own  # noqa: E402
from tests.bench.serving.peers import Peer, Running, build_peers  # noqa: E402

# (concurrency, rows a request)
SCENES = {"1": (1, 1), "8": (8, 1), "32": (32, 1), "batch": (1, BATCH), "batch-8": (8, BATCH)}
ROUNDS, SECONDS = 3, 2.5
YARDSTICK = "bare"
OURS = ("ours", "ours-shadow")
FIGURES = ("rps", "p50_ms", "p99_ms", "cpu_ms")
Results = dict[tuple[str, str], list[dict[str, Any]]]


class Bench:
    """Servers that are up, each with its requests."""

    def __init__(self, material: Material, folder: Path) -> None:
        self._material = material
        self._folder = folder
        self._stack = ExitStack()
        self._up: dict[str, tuple[Running, dict[int, Path]]] = {}
        self._score = score_first(material)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, names: Sequence[str]) -> None:
        """Start the servers one by one."""
        makers = build_peers(self._material, sys.executable, str(installing.PYTHON))
        for name in names:
            peer = self._start_own(name) if name in OURS else makers[name](self._folder)
            self._start(name, peer)

    def measure(self, name: str, scene: str, seconds: float) -> dict[str, Any]:
        """Return one server's figures in one scene."""
        running, files = self._up[name]
        concurrency, rows = SCENES[scene]
        words = {
            "--port": running.peer.port,
            "--path": running.peer.path,
            "--bodies": files[rows],
            "--concurrency": concurrency,
            "--seconds": seconds,
            "--tree": running.process.pid,
        }
        expected = ["--expected", running.peer.expected] if running.peer.expected else []
        flat = [str(word) for pair in words.items() for word in pair]
        client = str(ROOT / "tests" / "bench" / "serving" / "client.py")
        done = subprocess.run([sys.executable, client, *flat, *expected], check=True, capture_output=True)
        return json.loads(done.stdout)

    def draw_flame(self, name: str, folder: Path, seconds: float) -> list[Path]:
        """Write flame graphs of a server's busiest process at concurrency 8; return the files."""
        from tests.bench.serving.flame import draw

        running, _ = self._up[name]
        return draw(running.process.pid, folder, lambda: self.measure(name, "8", seconds), seconds)

    def read_shadow(self) -> str:
        """Return the version that our service says answers as its shadow; empty if none does."""
        url = f"http://127.0.0.1:{self._up[OURS[1]][0].peer.port}/live"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(json.loads(answer.read()).get("challenger") or "")

    def _start_own(self, name: str) -> Peer:
        own = Own(self._material, self._folder / name)
        self._stack.callback(own.stop)
        own.start_registry(shadow=name != OURS[0])
        return own.build_peer()

    def _start(self, name: str, peer: Peer) -> None:
        files = peer.write_bodies(self._material, self._folder)
        running = Running(peer, self._folder / f"{name}.log")
        self._stack.callback(running.stop)
        with files[1].open("rb") as bodies:
            running.await_score(next(bodies), self._score)
        self._up[name] = (running, files)


def run(bench: Bench, names: Sequence[str], scenes: Sequence[str], rounds: int, seconds: float) -> Results:
    """Measure in interleaved rounds; the order turns by one each round."""
    results: Results = {(name, scene): [] for name in names for scene in scenes}
    for turn in range(rounds):
        for scene in scenes:
            for i in range(len(names)):
                name = names[(i + turn) % len(names)]
                results[name, scene].append(bench.measure(name, scene, seconds))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return results


def summarise(results: Results) -> Iterator[dict[str, Any]]:
    """Yield one line a server and scene: medians, and the ratio to the yardstick within each round."""
    for (name, scene), rounds in results.items():
        line: dict[str, Any] = {"server": name, "scene": scene}
        line |= {key: round(statistics.median(one[key] for one in rounds), 3) for key in FIGURES}
        if yard := results.get((YARDSTICK, scene)):
            line["ratio"] = round(find_ratio(rounds, yard), 3)
            line["cpu_ratio"] = round(find_cpu_ratio(rounds, yard), 3)
        line["failed"] = sum(one["failed"] for one in rounds)
        told = [one["first_failure"] for one in rounds if one["failed"]]
        yield line | ({"first_failure": told[0][:500]} if told else {})


def find_ratio(rounds: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float:
    """Return the median over the rounds of requests a second over the other's."""
    pairs = zip(rounds, others, strict=True)
    return statistics.median(one["rps"] / max(other["rps"], 1e-9) for one, other in pairs)


def find_cpu_ratio(rounds: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float:
    """Return the same of requests a second of processor time."""
    pairs = zip(rounds, others, strict=True)
    return statistics.median(other["cpu_ms"] / max(one["cpu_ms"], 1e-9) for one, other in pairs)


def show_table(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the lines for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="one worker each; `batch`: requests of 100 rows, one after the other or 8 at once")
    columns = ("requests/s", "x bare", "x by cpu", "p50 ms", "p99 ms", "cpu ms", "failed")
    for column in ("scene", "server", *columns):
        table.add_column(column, justify="right" if column not in {"scene", "server"} else "left")
    for line in sorted(lines, key=lambda line: (list(SCENES).index(line["scene"]), -line["rps"])):
        told = [f"{line['rps']:,.0f}"]
        told += [f"{line[key]:.2f}" if key in line else "-" for key in ("ratio", "cpu_ratio")]
        told += [f"{line[key]:.2f}" for key in FIGURES[1:]]
        table.add_row(line["scene"], line["server"], *told, str(line["failed"]))
    Console(file=sys.stderr, width=110).print(table)


def choose(only: str, peers: str) -> list[str]:
    """Return the servers asked for, or all that can be started."""
    here = ["ours", YARDSTICK, "mlflow", "bento-frame", "bento-pydantic"]
    if peers == "all":
        installing.install()
    theirs = ["mlserver-mlflow", "mlserver-sklearn", "ray"] if installing.is_installed() else []
    if not only:
        return here + theirs
    known = [*here, OURS[1], *theirs]
    chosen = [name.strip() for name in only.split(",")]
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"{', '.join(unknown)}: expected some of {', '.join(known)} (--peers all adds more)")
    return chosen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="servers, separated by commas")
    parser.add_argument("--peers", choices=("installed", "all"), default="installed")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--scenes", default=",".join(SCENES), help="of " + ", ".join(SCENES))
    parser.add_argument("--flame", type=Path, help="folder for flame graphs of our own service")
    parser.add_argument("--material", type=Path, default=FOLDER, help="folder that the data is kept in")
    given = parser.parse_args()
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    if given.flame:
        installing.install()  # py-spy is among the peers' packages
    names, scenes = choose(given.only, given.peers), given.scenes.split(",")
    material = prepare(given.material)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Bench(material, Path(folder)) as bench:
        bench.start(names)
        lines = list(summarise(run(bench, names, scenes, given.rounds, given.seconds)))
        for line in lines:
            print(json.dumps(line), flush=True)
        show_table(lines)
        if given.flame and "ours" in names:
            for file in bench.draw_flame("ours", given.flame, 8.0):
                print(json.dumps({"flame graph": str(file)}), flush=True)


if __name__ == "__main__":
    main()
