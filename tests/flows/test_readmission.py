"""Quarantine: what is out is shown, and comes back by a person's decision, kept for good."""

import dataclasses
from collections.abc import Callable

import polars as pl
import pytest

from feature_repo.contract import Delivery, Period
from feature_repo.errors import RowRefused
from flows.corrections import restate_period
from flows.data_quality import read_newest
from flows.features import build_features, materialize_period
from flows.ingest import ingest_period
from flows.manifests import read_manifests
from flows.project import Project
from flows.quarantine import decode_row, encode_row, read_decisions, read_quarantine
from flows.readmission import parse_changes, readmit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
Make = Callable[..., Project]
Day = Callable[[int], Period]


@pytest.fixture
def project(make_toy: Make, toy_day: Day) -> Project:
    """Return a landed day of which one order, of a negative amount, is out."""
    toy = make_toy(days=5)

    def fetch(table: str, period: Period) -> Delivery:
        told = toy.fetch(table, period)
        if table != "orders":
            return told
        bad = pl.col("order_id") == "order-000007"
        return dataclasses.replace(
            told,
            frame=told.frame.with_columns(amount=pl.when(bad).then(pl.lit(-1.0)).otherwise("amount")),
        )

    project = dataclasses.replace(toy, fetch=fetch)
    ingest_period(project, toy_day(0))
    materialize_period(project, build_features(project, toy_day(0)), toy_day(0))
    return project


def held_id(project: Project) -> str:
    """Return the id of the one row that is out."""
    ids = read_quarantine(project.lake)["id"].to_list()
    assert len(ids) == 1
    return str(ids[0])


def test_a_row_that_still_breaks_its_rule_stays_out(project: Project) -> None:
    """Readmission without a fix is refused by the rule's name, and nothing is recorded."""
    with pytest.raises(RowRefused, match="amount lies between 0 and 5000"):
        readmit(project, [held_id(project)], who="ada", why="looks fine")
    assert len(read_decisions(project.lake)) == 0
    assert len(read_quarantine(project.lake)) == 1


def test_a_mended_row_lands_with_its_batch_and_the_decision_is_kept(project: Project) -> None:
    """The row lands mended; who and why are kept; the manifest counts it."""
    readmit(project, [held_id(project)], who="ada", why="sign error", changes={"amount": 12.5})
    landed = project.lake.read("orders").filter(order_id="order-000007").row(0, named=True)
    manifest = read_manifests(project.lake).filter(table="orders").row(0, named=True)
    assert (landed["amount"], landed["batch_id"]) == (12.5, manifest["batch_id"])
    assert (manifest["quarantined"], manifest["accepted"]) == (0, manifest["seen"])
    assert manifest["followed"]
    assert len(read_quarantine(project.lake)) == 0
    kept = read_decisions(project.lake).row(0, named=True)
    assert (kept["who"], kept["why"], kept["changes"]) == ("ada", "sign error", '{"amount": 12.5}')


def test_a_waived_row_lands_as_it_is(project: Project) -> None:
    """With a waiver the row lands though it breaks the rule, and the waiver names the rule."""
    readmit(project, [held_id(project)], who="ada", why="a refund", waive=True)
    assert project.lake.read("orders").filter(order_id="order-000007")["amount"].to_list() == [-1.0]
    assert read_decisions(project.lake)["waived"].to_list() == ["amount lies between 0 and 5000"]


def test_a_decision_holds_when_the_batch_is_delivered_again(project: Project, toy_day: Day) -> None:
    """A restated batch with the same bad row lets it in by the same decision."""
    readmit(project, [held_id(project)], who="ada", why="sign error", changes={"amount": 12.5})

    def fetch(table: str, period: Period) -> Delivery:
        told = project.fetch(table, period)
        return dataclasses.replace(told, frame=told.frame.slice(1)) if table == "orders" else told

    told = restate_period(dataclasses.replace(project, fetch=fetch), toy_day(0))
    assert [(m.revision, m.quarantined) for m in told] == [(2, 0)]
    assert project.lake.read("orders").filter(order_id="order-000007")["amount"].to_list() == [12.5]


def test_readmission_twice_changes_nothing(project: Project) -> None:
    """A second readmission says that the row is not out, and leaves all tables as they are."""
    one = held_id(project)
    readmit(project, [one], who="ada", why="sign error", changes={"amount": 12.5})
    hashes = project.lake.hashes()
    with pytest.raises(RowRefused, match="no such row"):
        readmit(project, [one], who="ada", why="again", changes={"amount": 12.5})
    assert project.lake.hashes() == hashes


@pytest.mark.parametrize(
    "changes", [{"order_id": "x"}, {"known_at": "2024-01-01"}, {"moon": 1}, {"amount": "much"}]
)
def test_a_key_an_instant_or_a_wrong_type_cannot_be_set(project: Project, changes: dict[str, object]) -> None:
    """What says which row it is cannot be mended here, nor a column set to what it cannot hold."""
    with pytest.raises(RowRefused):
        readmit(project, [held_id(project)], who="ada", why="test", changes=changes)
    assert len(read_quarantine(project.lake)) == 1


def test_a_row_survives_the_quarantine_to_the_bit(project: Project) -> None:
    """Encoding and decoding give the same values, instants, nulls and fractions."""
    table = project.problem.raw[0]
    row = {**project.lake.read("orders").drop("batch_id").row(3, named=True), "amount": 0.1 + 0.2}
    assert decode_row(encode_row(row), table) == row


def test_changes_are_read_as_json_or_text() -> None:
    """Numbers become numbers, anything else stays text, a pair without a sign is refused."""
    assert parse_changes(["a=1.5", "b=null", "c=EWR"]) == {"a": 1.5, "b": None, "c": "EWR"}
    with pytest.raises(RowRefused):
        parse_changes(["nothing"])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_cannot_be_set(value: str) -> None:
    """Rules on a range let through what is not a number, so it must not come in here."""
    with pytest.raises(RowRefused, match=value.removeprefix("-")):
        parse_changes([f"amount={value}"])


def test_a_readmission_needs_a_reason(project: Project) -> None:
    """Without a reason nothing is let in."""
    with pytest.raises(RowRefused, match="no reason"):
        readmit(project, [held_id(project)], who="ada", why=" ", waive=True)
    assert len(read_quarantine(project.lake)) == 1


def test_the_measures_of_a_batch_follow_a_readmission(project: Project) -> None:
    """The quarantined share in the profile is that of what is still out."""
    readmit(project, [held_id(project)], who="ada", why="sign error", changes={"amount": 12.5})
    assert read_newest(read_manifests(project.lake), project.problem.raw[0])["quarantined"] == "0.0%"
