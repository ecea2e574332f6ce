"""No expired value is served as fresh: materialization stops under traffic over real HTTP.

The service answers requests about real flights of January 2013. For half a day the store is written hour by
hour beside the traffic; then nothing is written any more, and the requests go on for four days. What each
answer used, as the journal has it, is judged here from the lake's rows alone, not by the service's own code.
"""

import json
import socket
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from feature_repo.contract import FeatureTable, Period
from feature_repo.problem import PROBLEM
from flows.traffic import to_json
from tests.bench.bench_features import STAMP, build_home

MONTH = Period(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 26, tzinfo=UTC))
STOP = datetime(2013, 1, 20, 18, tzinfo=UTC)
BEFORE, AFTER = timedelta(hours=12), timedelta(days=4)
ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
SINGLE, LIST = 900, 50  # requests sent one by one; requests a list
Figure = dict[str, Any]
Rows = Mapping[tuple[Any, ...], tuple[list[datetime], list[dict[str, Any]]]]


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        build_home(home, MONTH)
        world = World(home)
        with world.serve():
            flowing = world.send_while_writing()
            stopped = world.send(STOP, STOP + AFTER)
            told, ages = world.count("flags", kind="expired"), world.count_ages()
            lost = world.lose_store()
        journal = {row["prediction_id"]: row for row in world.read_journal()}
        yield from judge(world, [journal[i] for i in flowing], [journal[i] for i in stopped])
        flagged = sum(_kinds(row).count("expired") for row in journal.values())
        yield _figure(
            "freshness: expired features in the journal less those in metrics", flagged - told, "0", told > 0
        )
        yield _figure(
            "freshness: views whose age is in metrics", ages, str(len(PROBLEM.feature_tables)), ages == 6
        )
        yield _figure(
            "freshness: answers with the store's file gone, then back", lost, str(LOST), lost == LOST
        )


LOST = [["rule", "features_unavailable"], ["champion", "ok"]]


class World:
    """The app over HTTP, a real store, and a model of made-up rows."""

    def __init__(self, home: Path) -> None:
        from feature_repo.store import FeatureStore

        self.home = home
        self.store = FeatureStore(home, PROBLEM)
        self.store.apply()
        self.tables = {
            table.name: pl.read_delta(str(home / "lake" / table.name)) for table in PROBLEM.feature_tables
        }
        self.requests = pl.read_parquet(home / "requests.parquet").sort(PROBLEM.decided_at)
        self.store.write_period(self.tables, Period(MONTH.since, STOP - BEFORE - timedelta(hours=1)))

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Run the app with uvicorn on a free port."""
        import uvicorn
        from prometheus_client import CollectorRegistry

        from feature_repo.store import FeatureStore
        from services.app import build_app
        from services.journal import Journal
        from services.live import LiveModels
        from services.metrics import Metrics
        from services.prediction import ReopeningStore
        from services.schemas import build_wire
        from tests.packages import FakeRegistry, write_package

        registry = FakeRegistry()
        registry.register(write_package(self.home / "package", PROBLEM), "run", {})
        registry.named = {"champion": 1}
        self.counts = CollectorRegistry()
        metrics = Metrics(self.counts)
        models = LiveModels(registry, self.home / "models", 60, metrics)
        models.poll()
        self.journal = Journal(self.home / "journal" / "journal.db")
        feast = self.home / "feast"
        store = ReopeningStore(
            lambda: FeatureStore(self.home, PROBLEM), feast / "registry.db", feast / "online.db"
        )
        app = build_app(PROBLEM, store, models, self.journal, build_wire(PROBLEM), metrics)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
            thread = threading.Thread(target=server.run, args=([taken],))
            thread.start()
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=60) as self.client:
                while not server.started:
                    time.sleep(0.05)
                yield
            server.should_exit = True
            thread.join()

    def send_while_writing(self) -> list[str]:
        """Send each hour's requests while that hour's tick is written; return the answers' ids."""
        hour, ids = timedelta(hours=1), list[str]()
        tick = STOP - BEFORE
        while tick < STOP:
            writer = threading.Thread(
                target=self.store.write_period, args=(self.tables, Period(tick - hour, tick))
            )
            writer.start()
            ids += self.send(tick, tick + hour, single=20)
            writer.join()
            tick += hour
        self.store.write_period(self.tables, Period(STOP - hour, STOP))
        return ids

    def send(self, since: datetime, until: datetime, single: int = SINGLE) -> list[str]:
        """Send all requests decided in [since, until), some one by one, others in lists; return ids."""
        within = pl.col(PROBLEM.decided_at).is_between(since, until, closed="left")
        rows = [to_json(row, PROBLEM) for row in self.requests.filter(within).to_dicts()]
        every = max(1, len(rows) // single)
        ids = [self.ask(row)["prediction_id"] for row in rows[::every]]
        many = [row for i, row in enumerate(rows) if i % every]
        for start in range(0, len(many), LIST):
            answer = self.ask(many[start : start + LIST])
            ids += [one["prediction_id"] for one in answer["predictions"]]
        return ids

    def ask(self, body: Any) -> Any:
        """Return the answer to a body."""
        answer = self.client.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def lose_store(self) -> list[list[str]]:
        """Delete the online store under the service and let a next run make it again; return who answered."""
        row = to_json(self.requests.filter(pl.col(PROBLEM.decided_at) >= STOP).to_dicts()[0], PROBLEM)
        for path in (self.home / "feast").glob("online.db*"):
            path.unlink()
        answers = [self.ask(row)]
        from feature_repo.store import FeatureStore

        FeatureStore(self.home, PROBLEM).apply()
        time.sleep(1.5)  # a store that failed is left alone for a second
        answers.append(self.ask(row))
        return [[answer["served_by"], answer["reason"]] for answer in answers]

    def count(self, name: str, **labels: str) -> int:
        """Return the sum of a counter over the labels not given."""
        found = (s for metric in self.counts.collect() for s in metric.samples)
        wanted = labels.items()
        return int(
            sum(s.value for s in found if s.name == f"perennial_{name}_total" and wanted <= s.labels.items())
        )

    def count_ages(self) -> int:
        """Return of how many views the age is in metrics."""
        name = "perennial_feature_age_seconds"
        views = [t.name for t in PROBLEM.feature_tables]
        return sum(bool(self.counts.get_sample_value(f"{name}_count", {"view": view})) for view in views)

    def read_journal(self) -> list[dict[str, Any]]:
        """Return every prediction, its features and flags decoded."""
        rows = self.journal.read_predictions(ALWAYS).to_dicts()
        self.journal.close()
        return [
            {**row, "features": json.loads(row["features"]), "flags": json.loads(row["flags"])}
            for row in rows
        ]

    def index(self, table: FeatureTable) -> Rows:
        """Return a table's ticks and rows by key, in time's order."""
        found: dict[tuple[Any, ...], tuple[list[datetime], list[dict[str, Any]]]] = {}
        for row in self.tables[table.name].sort(STAMP).iter_rows(named=True):
            ticks, rows = found.setdefault(tuple(row[key] for key in table.keys), ([], []))
            ticks.append(row[STAMP])
            rows.append(row)
        return found


def judge(
    world: World, flowing: Sequence[dict[str, Any]], stopped: Sequence[dict[str, Any]]
) -> Iterator[Figure]:
    """Yield what the answers did with values that had expired."""
    tally: Counter[str] = Counter()
    for table in PROBLEM.feature_tables:
        rows = world.index(table)
        for answer in flowing:
            _judge_flowing(answer, table, rows, tally)
        for answer in stopped:
            _judge_stopped(answer, table, rows, tally)
    starved = sum(_is_starved(row) for row in stopped)
    fallen = [row for row in stopped if row["reason"] == "features_unavailable"]
    silent = [row for row in fallen if row["served_by"] not in {"rule", "prior"}]
    yield _figure(
        "freshness: expired values used, or not told as expired, after materialization stopped",
        tally["served"],
        "0",
        tally["served"] == 0 and tally["expired"] > 10_000,
        expired_values=tally["expired"],
        answers=len(stopped),
    )
    yield _figure(
        "freshness: values used while materialization went on that no fresh row has",
        tally["strange"],
        "0",
        tally["strange"] == 0 and tally["used"] > 5_000,
        values=tally["used"],
        answers=len(flowing),
    )
    yield _figure(
        "freshness: fresh values withheld or changed after materialization stopped",
        tally["withheld"],
        "0",
        tally["withheld"] == 0 and tally["fresh"] > 1_000,
        fresh_values=tally["fresh"],
    )
    yield _figure(
        "freshness: answers with more than half expired that a model gave, or that do not say why",
        abs(starved - len(fallen)) + len(silent),
        "0",
        starved == len(fallen) > 1_000 and not silent,
        fell_to_the_rule=len(fallen),
    )


def _judge_stopped(answer: Mapping[str, Any], table: FeatureTable, rows: Rows, tally: Counter[str]) -> None:
    """Count each feature of one table: the store held the key's newest row up to STOP."""
    decided = datetime.fromisoformat(answer["requested_at"])
    ticks, held = rows.get(_key(answer, table), ([], []))
    newest = bisect_right(ticks, STOP) - 1
    flags = {flag["feature"]: flag for flag in answer["flags"] if flag["kind"] in {"expired", "missing"}}
    for name in table.features:
        value, flag = answer["features"][name], flags.get(name)
        if newest < 0:
            tally["served"] += value is not None or flag is None
            continue
        age = decided - ticks[newest]
        if age > table.ttl:
            tally["expired"] += 1
            aged = flag is not None and flag["kind"] == "expired" and flag["got"] == age.total_seconds()
            tally["served"] += value is not None or not aged
        else:
            tally["fresh"] += 1
            tally["withheld"] += value != held[newest][name] or flag is not None


def _judge_flowing(answer: Mapping[str, Any], table: FeatureTable, rows: Rows, tally: Counter[str]) -> None:
    """Count each value used of one table: one of the key's rows within the limit must have it."""
    decided = datetime.fromisoformat(answer["requested_at"])
    ticks, held = rows.get(_key(answer, table), ([], []))
    fresh = [
        row for tick, row in zip(ticks, held, strict=True) if timedelta(0) <= decided - tick <= table.ttl
    ]
    for name in table.features:
        value = answer["features"][name]
        if value is not None:
            tally["used"] += 1
            tally["strange"] += all(row[name] != value for row in fresh)


def _key(answer: Mapping[str, Any], table: FeatureTable) -> tuple[Any, ...]:
    return tuple(answer["features"][key] for key in table.keys)


def _kinds(answer: Mapping[str, Any]) -> list[str]:
    return [flag["kind"] for flag in answer["flags"]]


def _is_starved(answer: Mapping[str, Any]) -> bool:
    stored = sum(len(table.features) for table in PROBLEM.feature_tables)
    gone = {f["feature"] for f in answer["flags"] if f["kind"] in {"missing", "expired"}}
    requested = {feature.name for feature in PROBLEM.features if feature.source == "request"}
    return len(gone - requested) * 2 > stored


def _figure(name: str, value: object, bar: str, ok: bool, **told: object) -> Figure:
    return {"name": name, "value": value, "bar": bar, "ok": ok, **told}
