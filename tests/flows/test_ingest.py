"""Batches: what lands, what does not, and that a repeat or a kill changes nothing."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Delivery, Period
from feature_repo.errors import LakeBusy, OutOfOrder
from flows.features import build_features
from flows.ingest import choose_hours, ingest_period, landed_until
from flows.loop import backfill_days, choose_day
from flows.manifests import read_manifests
from flows.project import Project

Make = Callable[..., Project]
Day = Callable[[int], Period]


def with_fetch(project: Project, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Project:
    """Return the project with its orders changed on the way in."""

    def fetch(table: str, period: Period) -> Delivery:
        told = project.fetch(table, period)
        return dataclasses.replace(told, frame=change(told.frame)) if table == "orders" else told

    return dataclasses.replace(project, fetch=fetch)


def test_the_same_day_twice_leaves_the_same_tables(make_toy: Make, toy_day: Day) -> None:
    """Re-running a period changes nothing, not even a table's version."""
    project = make_toy()
    ingest_period(project, toy_day(0))
    hashes, versions = project.lake.hashes(), [project.lake.version(t) for t in project.lake.tables()]
    again = ingest_period(project, toy_day(0))
    assert {m.status for m in again} == {"unchanged"}
    assert project.lake.hashes() == hashes
    assert [project.lake.version(t) for t in project.lake.tables()] == versions


def test_hours_and_days_land_the_same_rows(make_toy: Make, toy_day: Day) -> None:
    """The size of the batches does not change what is in the lake."""
    day = toy_day(0)
    whole, pieces = make_toy("whole"), make_toy("pieces")
    ingest_period(whole, day)
    step = (day.until - day.since) / 4
    for i in range(4):
        ingest_period(pieces, Period(day.since + i * step, day.since + (i + 1) * step))
    for table in ("orders", "returns"):
        rows = [p.lake.read(table).drop("batch_id").sort("order_id") for p in (whole, pieces)]
        assert rows[0].equals(rows[1])


def test_days_before_the_first_that_landed_are_refused(make_toy: Make, toy_day: Day) -> None:
    """They would be left out without a word: the lake grows at its end. The message names the way out."""
    project = make_toy()
    ingest_period(project, toy_day(3))
    hashes = project.lake.hashes()
    with pytest.raises(OutOfOrder, match=f"{toy_day(3).since:%Y-%m-%d}.*make clean"):
        ingest_period(project, Period(toy_day(1).since, toy_day(4).until))
    assert project.lake.hashes() == hashes
    ingest_period(project, toy_day(4))
    assert {m.status for m in ingest_period(project, toy_day(3))} == {"unchanged"}


def test_a_backfill_of_earlier_days_takes_in_none_of_them(make_toy: Make, toy_day: Day) -> None:
    """Neither the earlier days nor the later ones: who asked is told before anything is written."""
    project = make_toy(days=8)
    days = [toy_day(n).since.date() for n in range(8)]
    backfill_days(project, days[3], days[5], lambda done, total: None)
    hashes = project.lake.hashes()
    with pytest.raises(OutOfOrder):
        backfill_days(project, days[1], days[7], lambda done, total: None)
    assert project.lake.hashes() == hashes


def test_a_table_that_never_landed_starts_where_the_others_did(make_toy: Make, toy_day: Day) -> None:
    """A first batch that stopped is asked for again, and not all since the problem's start."""
    project = make_toy()
    broken = with_fetch(project, lambda frame: frame.with_columns(amount=pl.lit(-1.0)))
    assert ingest_period(broken, toy_day(3))[0].status == "stopped"
    assert landed_until(project) == toy_day(3).since
    assert {m.table for m in ingest_period(project, toy_day(3)) if m.status == "landed"} == {"orders"}
    assert landed_until(project) == toy_day(3).until


def test_an_hour_that_lasts_does_not_land(make_toy: Make, toy_day: Day) -> None:
    """Of live data whole hours are taken in, no more than are over; of the past as many as are asked for."""
    project, half = make_toy(), timedelta(minutes=30)
    ingest_period(project, toy_day(3))
    landed = toy_day(3).until
    assert choose_hours(project, 5, landed + half) is None
    assert choose_hours(project, 5, landed + half * 5) == Period(landed, landed + half * 4)
    assert choose_hours(project, 5, landed + timedelta(days=400)) == Period(landed, landed + half * 10)


def test_a_day_that_lasts_is_not_run_and_the_day_before_is(make_toy: Make, toy_day: Day) -> None:
    """It landed hour by hour, and is closed in the night after."""
    project = make_toy()
    ingest_period(project, toy_day(3))
    days = [toy_day(n).since.date() for n in range(8)]
    assert choose_day(project, toy_day(3).until + timedelta(hours=6)) == days[3]
    assert choose_day(project, toy_day(4).until) == days[4]


def test_a_bad_row_goes_to_quarantine_with_its_rule(make_toy: Make, toy_day: Day) -> None:
    """A row that breaks a rule does not land and is kept with the rule's name."""
    first = pl.int_range(pl.len()) == 0
    project = with_fetch(
        make_toy(),
        lambda f: f.with_columns(amount=pl.when(first).then(pl.lit(-1.0)).otherwise("amount")),
    )
    manifest = ingest_period(project, toy_day(0))[0]
    assert (manifest.quarantined, manifest.accepted) == (1, manifest.seen - 1)
    kept = project.lake.read("quarantine").row(0, named=True)
    assert kept["rules"] == "amount lies between 0 and 5000"
    assert json.loads(kept["row"])["amount"] == -1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.drop("amount"), "column amount exists, but: missing"),
        (lambda f: f.with_columns(extra=pl.lit(1)), "no unknown column, but: column extra"),
        (
            lambda f: f.with_columns(pl.col("amount").cast(pl.String)),
            "column amount is Float64, but: is String",
        ),
        (lambda f: f.clear(), "between 1 and 100000 rows, but: 0"),
        (
            lambda f: f.with_columns(shop=pl.lit("moon")),
            (
                "at most 5% of rows quarantined, but: 100.0%; "
                "most of them: shop is one of north, south, east, west"
            ),
        ),
    ],
)
def test_a_bad_batch_stops_and_nothing_lands(
    make_toy: Make, toy_day: Day, change: Callable[[pl.DataFrame], pl.DataFrame], reason: str
) -> None:
    """A batch-level failure lands no row; the manifest says why; the next run starts from there."""
    project = make_toy()
    manifest = ingest_period(with_fetch(project, change), toy_day(0))[0]
    assert (manifest.status, manifest.accepted, manifest.reasons) == ("stopped", 0, reason)
    assert not project.lake.has("orders")
    assert landed_until(project, "orders") == project.problem.start
    healed = ingest_period(project, toy_day(1))[0]
    assert (healed.status, healed.since) == ("landed", toy_day(0).since)


def test_every_row_carries_a_batch_that_its_manifest_counts(make_toy: Make, toy_day: Day) -> None:
    """Rows and manifests agree, batch by batch."""
    project = make_toy()
    for n in range(2):
        ingest_period(project, toy_day(n))
    counted = project.lake.read("orders").group_by("batch_id").len()
    told = read_manifests(project.lake).filter(pl.col("table") == "orders")
    assert dict(counted.iter_rows()) == dict(told.select("batch_id", "accepted").iter_rows())


def test_a_second_writer_is_told_so(make_toy: Make, toy_day: Day) -> None:
    """Two ingests at once: one works, the other says who holds the lake and writes nothing."""
    project = make_toy()
    with project.lake.writer("the first"), pytest.raises(LakeBusy, match="the first"):
        ingest_period(project, toy_day(0))
    assert project.lake.tables() == []


KILLER = """
    import os, signal, sys
    from pathlib import Path
    from feature_repo.lake import Lake
    from feature_repo.settings import Settings
    from flows.features import build_features
    from flows.ingest import ingest_period
    from flows.project import Project
    from tests import toy
    from feature_repo.contract import Delivery, Period
    from datetime import timedelta

    home, step = Path(sys.argv[1]), int(sys.argv[2])
    lake = Lake(home / "lake")
    write, done = lake._write, []

    def dying(*args, **kwargs):
        # Odd steps die before the commit, even ones right after it.
        if len(done) * 2 + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        version = write(*args, **kwargs)
        done.append(1)
        if len(done) * 2 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return version

    lake._write = dying
    project = Project(Settings(home=home), toy.TOY, toy.open_toy_source(5), toy.suite, toy.add_check_columns,
                      lambda problem: None, lake)
    day = Period(toy.START, toy.START + timedelta(days=4))
    ingest_period(project, day)
    build_features(project, day)
    print("survived")
"""


@pytest.mark.parametrize("step", range(1, 9))
def test_a_kill_at_any_commit_and_a_rerun_leave_the_same_tables(
    make_toy: Make, tmp_path: Path, toy_day: Day, step: int
) -> None:
    """SIGKILL before or after each commit of ingest and features; a plain re-run gives equal tables."""
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path / "killed"), str(step)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    calm, killed = make_toy("calm", days=5), make_toy("killed", days=5)
    period = Period(toy_day(0).since, toy_day(3).until)
    for project in (calm, killed):
        ingest_period(project, period)
        build_features(project, period)
    assert killed.lake.hashes() == calm.lake.hashes()
