"""Corrections: what the source tells anew lands, and everything made of it follows."""

import dataclasses
import json
from collections.abc import Callable

import polars as pl
import pytest

from feature_repo.contract import Delivery, Period
from feature_repo.lake import content_hash
from flows.changes import find_changes
from flows.corrections import follow_corrections, recheck, restate_period
from flows.features import build_features, compute_features, find_unbuilt, materialize_period
from flows.ingest import ingest_period, landed_until
from flows.label import label_period
from flows.manifests import LANDED, SUPERSEDED, read_manifests
from flows.project import Project
from flows.training_set import build_training_set
from services.journal import Prediction

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
Make = Callable[..., Project]
Day = Callable[[int], Period]
Change = Callable[[pl.DataFrame], pl.DataFrame]


def with_correction(project: Project, table: str, change: Change) -> Project:
    """Return the project with a source that tells one table otherwise."""

    def fetch(name: str, period: Period) -> Delivery:
        told = project.fetch(name, period)
        return dataclasses.replace(told, frame=change(told.frame)) if name == table else told

    return dataclasses.replace(project, fetch=fetch)


def flip_first(frame: pl.DataFrame) -> pl.DataFrame:
    """Turn the first outcome round."""
    first = pl.int_range(pl.len()) == 0
    return frame.with_columns(
        returned=pl.when(first).then(1 - pl.col("returned")).otherwise("returned").cast(pl.Int8)
    )


@pytest.fixture
def project(make_toy: Make, toy_day: Day) -> Project:
    """Return eight landed days with their features, online."""
    project = make_toy(days=10)
    for n in range(8):
        ingest_period(project, toy_day(n))
        materialize_period(project, build_features(project, toy_day(n)), toy_day(n))
    return project


def test_a_source_that_tells_the_same_changes_nothing(project: Project, toy_day: Day) -> None:
    """Asking again for what has not changed lands nothing, and no version is made."""
    versions = {t: project.lake.version(t) for t in project.lake.tables()}
    assert restate_period(project, Period(toy_day(0).since, toy_day(7).until)) == []
    follow_corrections(project)
    assert {t: project.lake.version(t) for t in project.lake.tables()} == versions


def test_a_changed_outcome_lands_as_a_revision_that_says_what_changed(project: Project, toy_day: Day) -> None:
    """The new revision counts, the old manifest stays as superseded, and the difference is told."""
    corrected = with_correction(project, "returns", flip_first)
    told = restate_period(corrected, toy_day(5))
    assert [(m.table, m.status, m.revision) for m in told] == [("returns", LANDED, 2)]
    changes = json.loads(told[0].changes)
    assert (changes["added"], changes["removed"], changes["changed"]) == (0, 0, 1)
    assert changes["columns"] == {"returned": 1}
    statuses = read_manifests(project.lake).filter(table="returns", since=toy_day(5).since)
    assert sorted(statuses["status"]) == sorted([LANDED, SUPERSEDED])
    assert landed_until(project, "returns") == toy_day(7).until


def test_features_and_online_values_follow_as_if_it_had_always_been_so(
    project: Project, make_toy: Make, toy_day: Day
) -> None:
    """After a correction every table equals that of a project which saw the corrected source only."""
    corrected = with_correction(project, "returns", flip_first)
    restate_period(corrected, Period(toy_day(0).since, toy_day(7).until))
    followed = follow_corrections(corrected)
    assert followed.features
    assert followed.online > 0
    calm = with_correction(make_toy("calm", days=10), "returns", flip_first)
    for n in range(8):
        ingest_period(calm, toy_day(n))
        materialize_period(calm, build_features(calm, toy_day(n)), toy_day(n))
    for table in ("orders", "returns", "shop_day"):
        # A revision has a batch id of its own.
        rows = [one.lake.read(table).drop("batch_id", strict=False) for one in (project, calm)]
        assert content_hash(rows[0]) == content_hash(rows[1])
    asked = [{"shop": shop, "decided_at": toy_day(7).until} for shop in ("north", "south", "east", "west")]
    assert [v.values for v in project.store.read_online(asked)] == [
        v.values for v in calm.store.read_online(asked)
    ]


def test_late_rows_are_added_and_withdrawn_ones_removed(project: Project, toy_day: Day) -> None:
    """A row that the source had not told before lands; one that it no longer tells leaves."""
    fewer = with_correction(project, "orders", lambda frame: frame.slice(3))
    told = restate_period(fewer, toy_day(2))
    assert json.loads(told[0].changes)["removed"] == 3
    again = restate_period(project, toy_day(2))
    assert json.loads(again[0].changes)["added"] == 3
    assert again[0].revision == 3


def test_a_killed_follow_up_is_made_up_for(project: Project, toy_day: Day) -> None:
    """What landed and was not followed is followed by the next run, though the source tells nothing new."""
    corrected = with_correction(project, "returns", flip_first)
    restate_period(corrected, toy_day(5))
    assert restate_period(corrected, toy_day(5)) == []
    assert follow_corrections(corrected).features
    assert follow_corrections(corrected).batches == ()
    table = project.problem.feature_tables[0]
    stretch = Period(toy_day(0).since, toy_day(7).until)
    fresh = compute_features(project, table, stretch).sort("shop", "event_timestamp")
    kept = project.lake.read(table.name).select(fresh.columns).sort("shop", "event_timestamp")
    assert kept.equals(fresh)


def test_a_damaged_correction_does_not_replace_what_had_landed(project: Project, toy_day: Day) -> None:
    """A restatement that breaks a batch rule stops; the rows that had landed stay."""
    before = project.lake.hashes()["orders"]
    told = restate_period(with_correction(project, "orders", lambda f: f.drop("amount")), toy_day(2))
    assert [m.status for m in told] == ["stopped"]
    assert project.lake.hashes()["orders"] == before
    assert follow_corrections(project).batches == ()


def test_an_old_snapshot_rebuilds_after_a_correction(project: Project, toy_day: Day) -> None:
    """A training set taken before the correction keeps its hash; a new one differs."""
    until = toy_day(7).until
    first = build_training_set(project, until)
    corrected = with_correction(project, "returns", flip_first)
    restate_period(corrected, Period(toy_day(0).since, until))
    follow_corrections(corrected)
    again = build_training_set(project, until, project.lake.load_snapshot(first.snapshot.id))
    assert again.sha256 == first.sha256
    assert build_training_set(project, until).sha256 != first.sha256


def test_labels_follow_a_changed_outcome(project: Project, toy_day: Day) -> None:
    """The label of a prediction whose outcome was corrected is the corrected one."""
    known = project.lake.read("returns", toy_day(5)).row(0, named=True)
    asked = Prediction(
        prediction_id="p1",
        entity=known["order_id"],
        requested_at=toy_day(2).since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        received_at=toy_day(2).since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        model_version="1",
        served_by="champion",
        reason="ok",
        score=0.5,
        features="{}",
        flags="[]",
        request="{}",
    )
    with project.journal as journal:
        journal.append([asked])
    label_period(project.lake, project.journal, project.problem, toy_day(5))
    before = project.lake.read("labels")["outcome"].to_list()

    def flip(frame: pl.DataFrame) -> pl.DataFrame:
        mine = pl.col("order_id") == known["order_id"]
        return frame.with_columns(
            returned=pl.when(mine).then(1 - pl.col("returned")).otherwise("returned").cast(pl.Int8)
        )

    corrected = with_correction(project, "returns", flip)
    restate_period(corrected, toy_day(5))
    assert follow_corrections(corrected).labels == 1
    assert project.lake.read("labels")["outcome"].to_list() == [1 - before[0]]


def test_the_daily_recheck_never_reaches_before_the_start(project: Project, toy_day: Day) -> None:
    """Three days before the second day is the start."""
    assert recheck(project, toy_day(1).since, 3).since == project.problem.start


def test_changes_are_found_by_key_whatever_the_order() -> None:
    """Added, removed and changed rows are told apart, nulls compared as values."""
    before = pl.DataFrame({"id": ["a", "b", "c"], "x": [1, None, 3]})
    after = pl.DataFrame({"id": ["d", "c", "b"], "x": [4, None, None]})
    found = find_changes(before, after, ("id",))
    assert (found["added"], found["removed"], found["changed"]) == (1, 1, 1)
    assert found["columns"] == {"x": 1}
    assert found["examples"] == ["c: x 3 -> None", "d: added", "a: removed"]


def test_every_revision_keeps_its_manifest_though_the_source_goes_back_and_forth(
    project: Project, toy_day: Day
) -> None:
    """A, B, A again: three revisions under three ids, one of them landed."""
    corrected = with_correction(project, "returns", flip_first)
    for source in (corrected, project, corrected):
        restate_period(source, toy_day(5))
    told = read_manifests(project.lake).filter(table="returns", since=toy_day(5).since)
    assert told["revision"].to_list() == [1, 2, 3, 4]
    assert told["batch_id"].n_unique() == 4
    assert told["status"].to_list() == [SUPERSEDED] * 3 + [LANDED]


def test_features_that_a_killed_backfill_left_out_are_found(make_toy: Make, toy_day: Day) -> None:
    """However many days have landed without features, the next run begins where they end."""
    late = make_toy("late", days=10)
    begun = Period(toy_day(0).since, toy_day(4).until)
    ingest_period(late, begun)
    materialize_period(late, build_features(late, begun), begun)
    for n in range(5, 9):
        ingest_period(late, toy_day(n))
    assert find_unbuilt(late, toy_day(9)).since == begun.until


def test_features_that_were_never_built_are_found(make_toy: Make, toy_day: Day) -> None:
    """After a backfill that was killed before its first features, they are computed from the start."""
    late = make_toy("late", days=10)
    for n in range(5):
        ingest_period(late, toy_day(n))
    assert find_unbuilt(late, toy_day(5)).since == late.problem.start
