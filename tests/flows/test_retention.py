"""Retention deletes what nothing needs, and nothing else, whoever is killed or cannot be asked."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from feature_repo.contract import Period
from feature_repo.errors import LakeBusy, RegistryUnavailable
from feature_repo.lake import Lake, Snapshot, content_hash
from feature_repo.materializations import Materialization, Materializations
from flows.features import write_features
from flows.project import Project
from flows.retention import (
    check_answers,
    keep_lake,
    pick_writes,
    read_run_snapshots,
    read_version_snapshots,
)
from flows.training_set import read_at
from tests import toy
from tests.packages import FakeRegistry, write_package

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
DAYS = 20


@pytest.fixture
def project(make_toy: Callable[..., Project]) -> Project:
    """Return the toy problem landed and computed day by day."""
    project = make_toy()
    tables = toy.make_orders(DAYS)
    for n in range(DAYS):
        day = Period(toy.START + timedelta(days=n), toy.START + timedelta(days=n + 1))
        for name, frame in tables.items():
            within = pl.col("known_at").is_between(day.since, day.until, closed="left")
            project.lake.replace(name, frame.filter(within), day, "known_at")
        write_features(project, toy.SHOP_DAY, day)
    return project


def hash_snapshot(lake: Lake, snapshot: Snapshot) -> dict[str, str]:
    return {table: content_hash(read_at(lake, table, snapshot)) for table in snapshot.versions}


def correct(project: Project, n: int) -> None:
    """Restate the n-th day: everything that was ordered on it was dearer."""
    day = Period(toy.START + timedelta(days=n), toy.START + timedelta(days=n + 1))
    told = project.lake.read("orders", day).with_columns(pl.col("amount") + 1)
    project.lake.replace("orders", told, day, "known_at")


def test_named_snapshots_survive_corrections_compaction_and_a_vacuum_without_grace(project: Project) -> None:
    """What is named stays the same by hash, the rest goes, and the newest rows stay as they are."""
    tables = ["orders", "returns", "shop_day"]
    named, unnamed = project.lake.snapshot(tables), None
    truth = hash_snapshot(project.lake, named)
    for n in (3, 4):
        correct(project, n)
        unnamed = unnamed or project.lake.snapshot(tables)
    newest = project.lake.hashes()
    done = keep_lake(project, lambda _: {named.id}, keep_days=0, grace_hours=0)
    assert done.not_vacuumed == ""
    assert (done.snapshots_kept, done.snapshots_dropped) == (1, 1)
    assert hash_snapshot(project.lake, named) == truth
    assert project.lake.hashes() == newest
    assert unnamed is not None
    assert not project.lake.can_read("orders", unnamed.versions["orders"])
    told = {one.table: one for one in done.tables}
    assert told["orders"].bytes_freed + told["shop_day"].bytes_freed != 0
    assert told["orders"].compacted
    assert told["orders"].versions_kept == 2
    correct(project, 5)
    keep_lake(project, lambda _: {named.id}, keep_days=0, grace_hours=0)
    assert hash_snapshot(project.lake, named) == truth


def test_a_second_upkeep_does_nothing(project: Project) -> None:
    """It is safe to repeat: no file changes and no version is added."""
    keep_lake(project, lambda _: set(), keep_days=0, grace_hours=0)
    before = {
        table: (project.lake.version(table), project.lake.measure(table)) for table in project.lake.tables()
    }
    done = keep_lake(project, lambda _: set(), keep_days=0, grace_hours=0)
    after = {
        table: (project.lake.version(table), project.lake.measure(table)) for table in project.lake.tables()
    }
    assert after == before
    assert not any(one.compacted or one.bytes_freed for one in done.tables)


def test_a_snapshot_that_was_just_taken_is_kept_though_no_run_names_it_yet(project: Project) -> None:
    """A training that goes on has logged nothing; the time of grace protects it."""
    taken = project.lake.snapshot(["orders"])
    correct(project, 3)
    truth = hash_snapshot(project.lake, taken)
    done = keep_lake(project, lambda _: set(), keep_days=0)
    assert (done.snapshots_kept, done.snapshots_dropped) == (1, 0)
    assert hash_snapshot(project.lake, taken) == truth


def test_nothing_is_deleted_if_the_registry_cannot_be_asked(project: Project) -> None:
    """Tables are compacted all the same, and the report says why every file is still there."""

    def ask(_: Project) -> set[str]:
        raise RegistryUnavailable("MLflow", got="nothing", expected="an answer", next_step="Start it.")

    taken = project.lake.snapshot(["orders"])
    correct(project, 3)
    files = {table: project.lake.measure(table)[0] for table in project.lake.tables()}
    done = keep_lake(project, ask, keep_days=0, grace_hours=0)
    assert "MLflow" in done.not_vacuumed
    assert all(project.lake.measure(table)[0] > n for table, n in files.items())
    assert all(project.lake.can_read("orders", v) for v in range(project.lake.version("orders")))
    assert project.lake.load_snapshot(taken.id) == taken


def test_versions_that_were_online_stay_for_the_days_that_answers_are_kept(project: Project) -> None:
    """A version that features went online from is needed, until its answers are too old."""
    log = Materializations(project.settings.home / "feast")
    online = project.lake.current(["shop_day"])
    with log.writing(toy.START, toy.START + timedelta(days=DAYS), online):
        pass
    day = Period(toy.START + timedelta(days=4), toy.START + timedelta(days=5))
    told = project.lake.read("shop_day", day, "event_timestamp").with_columns(pl.col("shop_returned_1d") / 2)
    project.lake.replace("shop_day", told, day, "event_timestamp")
    keep_lake(project, lambda _: set(), grace_hours=0)
    assert project.lake.can_read("shop_day", online.versions["shop_day"])


def test_upkeep_waits_for_nobody_and_disturbs_nobody(project: Project) -> None:
    """While somebody writes it says who, and changes nothing."""
    before = project.lake.hashes()
    with project.lake.writer("ingest"), pytest.raises(LakeBusy, match="ingest"):
        keep_lake(project, lambda _: set())
    assert project.lake.hashes() == before


def write_at(number: int, ended: datetime, since: datetime, until: datetime) -> Materialization:
    return Materialization(number, ended, ended, since, until, Snapshot.of({"t": number}))


def test_writes_are_kept_as_far_back_as_their_rows_were_still_fresh() -> None:
    """Of older writes, the last one counts, and those whose rows had not expired by then."""
    now, hour = datetime(2024, 5, 1, tzinfo=UTC), timedelta(hours=1)
    log = [write_at(n, now - 10 * hour + n * hour, now + n * hour, now + (n + 1) * hour) for n in range(10)]
    kept = pick_writes(log, log[7].started_at, ttl=2 * hour)
    assert [write.id for write in kept] == [3, 4, 5, 6, 7, 8, 9]
    assert pick_writes(log, now + 100 * hour, ttl=timedelta(0))[-1].id == 9
    assert pick_writes([], now, ttl=hour) == []


def test_versions_without_a_tag_are_asked_for_their_contract(project: Project, tmp_path: Path) -> None:
    """Every registered version names its snapshot, in a tag or in its contract."""
    registry = FakeRegistry()
    registry.register(write_package(tmp_path / "one", toy.TOY), "run", {"perennial.snapshot": "tagged"})
    registry.register(write_package(tmp_path / "two", toy.TOY), "run", {})
    project.__dict__["registry"] = registry
    assert read_version_snapshots(project) == {"tagged", "made up"}


def test_runs_that_are_deleted_need_no_snapshot(tmp_path: Path) -> None:
    """A real MLflow's runs name snapshots until somebody deletes them."""
    from mlflow import MlflowClient

    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(url, url)
    experiment = client.create_experiment("toy", artifact_location=str(tmp_path / "artifacts"))
    runs = [client.create_run(experiment, tags={"perennial.snapshot": f"s{n}"}) for n in range(3)]
    client.create_run(experiment)
    assert read_run_snapshots(url) == {"s0", "s1", "s2"}
    client.delete_run(runs[1].info.run_id)
    assert read_run_snapshots(url) == {"s0", "s2"}


def test_an_mlflow_that_is_down_is_noticed_at_once() -> None:
    """Nobody waits for its client's tries."""
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1"):
        check_answers("http://127.0.0.1:9")


UPKEEP = """
import sys
from pathlib import Path
from feature_repo.lake import Lake
lake = Lake(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with lake.writer("upkeep"):
        for table in ("orders", "returns", "shop_day"):
            lake.compact(table, small_files=2)
            lake.vacuum(table, [int(sys.argv[2])], 0)
"""


@pytest.mark.parametrize("milliseconds", [1, 5, 10, 20, 40, 80, 160, 320])
def test_a_kill_in_the_middle_leaves_every_needed_row(project: Project, milliseconds: int) -> None:
    """After SIGKILL at any moment tables read the same, and the next upkeep ends what was begun."""
    lake = project.lake
    kept = dict.fromkeys(lake.tables(), 9)
    truth = {table: content_hash(lake.read(table, version=9)) for table in kept}
    newest = lake.hashes()
    command = [sys.executable, "-c", UPKEEP, str(lake.root), "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(milliseconds / 1_000)
        process.send_signal(signal.SIGKILL)
    assert lake.hashes() == newest
    assert {table: content_hash(lake.read(table, version=9)) for table in kept} == truth
    with lake.writer("upkeep"):
        for table in kept:
            lake.compact(table, small_files=2)
            lake.vacuum(table, [9], 0)
            assert lake.count_files(table) == 1
            needed = DeltaTable(str(lake.root / table), version=9).file_uris()
            assert lake.measure(table)[0] == len(needed) + 1  # of the version that is kept, and the newest
    assert lake.hashes() == newest
    assert {table: content_hash(lake.read(table, version=9)) for table in kept} == truth
