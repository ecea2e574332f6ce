"""What the project relies on of Great Expectations, asked of the real one."""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from expectations import parts, raw, rules
from expectations.pages import render_page
from expectations.report import Report
from expectations.rules import LIMITS, Rule
from expectations.runner import judge, validate
from feature_repo.contract import Period, RawTable
from feature_repo.problem import PROBLEM

INSTANT = pl.Datetime("us", "UTC")
SINCE = datetime(2024, 5, 1, tzinfo=UTC)
DAY = Period(SINCE, SINCE + timedelta(days=1))
SHOPS = ("north", "south", "east")
TABLE = RawTable(
    "sales",
    {"id": pl.String, "shop": pl.String, "amount": pl.Float64, "due": pl.Int64, "known_at": INSTANT},
    key=("id",),
)
SUITE = [
    *rules.present("id", "shop"),
    rules.unique("id"),
    rules.one_of("shop", SHOPS),
    rules.like("id", "^key-[0-9]+$", "a key"),
    rules.between("amount", 0, 100),
    rules.greater("amount", "due", "what is paid is not below what is due"),
    rules.row_count(50, 5_000),
    rules.newest("known_at", SINCE, DAY.until),
    rules.share_present("amount", 0.9),
]
BROKEN = {
    "id is present": [3],
    "shop is present": [5],
    "id is unique": [10, 11],
    "shop is one of north, south, east": [6, 7],
    "id is a key": [8],
    "amount lies between 0 and 100": [20],
    "what is paid is not below what is due": [30],
}


def make_batch() -> pl.DataFrame:
    """Return 300 sales of which each rule on rows is broken by the rows in BROKEN and no others."""
    n = 300
    ids, shops = [f"key-{i}" for i in range(n)], [SHOPS[i % 3] for i in range(n)]
    amounts, due = [float(i % 90 + 5) for i in range(n)], [1] * n
    ids[3], ids[11], ids[8], shops[5], shops[6], shops[7] = None, "key-10", "no key", None, "moon", "moon"
    amounts[20], due[30], amounts[40] = 5000.0, 99, None
    known = [SINCE + timedelta(minutes=4 * i) for i in range(n)]
    columns = {"id": ids, "shop": shops, "amount": amounts, "due": due, "known_at": known}
    return pl.DataFrame(columns, schema=dict(TABLE.schema))


def check(
    frame: pl.DataFrame | pl.LazyFrame, suite: list[Rule] | None = None, history: pl.DataFrame | None = None
) -> Report:
    """Validate as ingest does, without check columns."""
    empty = pl.DataFrame(
        schema={"since": INSTANT, "until": INSTANT, "measure": pl.String, "value": pl.Float64}
    )
    return validate(
        frame,
        TABLE,
        DAY,
        rules=SUITE if suite is None else suite,
        add_columns=lambda one: one,
        history=empty if history is None else history,
        time_zone="UTC",
    )


def make_history(change: float = 1.0) -> pl.DataFrame:
    """Return four weeks of days like the batch, or `change` times as large."""
    rows = [
        (f"b{n}", SINCE - timedelta(days=n), SINCE - timedelta(days=n - 1), name, value)
        for n in range(1, 29)
        for name, value in {"rows": 300 * change, "amount.null_share": 0.0, "age_hours": 4.1}.items()
    ]
    schema = {
        "batch_id": pl.String,
        "since": INSTANT,
        "until": INSTANT,
        "measure": pl.String,
        "value": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_every_rule_names_a_class_that_there_is() -> None:
    """The vocabulary, the limits and the bundled suite become expectations by name."""
    import great_expectations as gx

    bundled = [rule for table in PROBLEM.raw for rule in raw.suite(table.name, DAY)]
    for rule in (*SUITE, *LIMITS, *bundled):
        assert getattr(gx.expectations, rule.expect)(**rule.arguments)


@pytest.mark.parametrize("how", ["as it is", "large", "in a file"])
def test_rows_are_named_with_the_rules_that_they_broke(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, in parts or from disk: the same rows fail the same rules."""
    frame: pl.DataFrame | pl.LazyFrame = make_batch()
    if how != "as it is":
        monkeypatch.setattr(parts, "PART", 70)
        monkeypatch.setattr(parts, "DIRECT", 20)
    if how == "in a file":
        make_batch().write_parquet(tmp_path / "batch.parquet")
        frame = pl.scan_parquet(tmp_path / "batch.parquet")
    report = check(frame)
    assert {failure.rule: list(failure.rows) for failure in report.failures} == BROKEN
    assert report.stops == report.warnings == ()
    assert report.broken_rules()[20] == ["amount lies between 0 and 100"]
    assert (report.profile["rows"], report.profile["duplicates"]) == (300, 2)


@pytest.mark.parametrize(
    ("change", "stop"),
    [
        (lambda f: f.head(40), "between 50 and 5000 rows: 40"),
        (lambda f: f.clear(), "between 50 and 5000 rows: 0"),
        (lambda f: f.drop("due"), "column due exists: missing"),
        (lambda f: f.with_columns(pl.col("due").cast(pl.String)), "column due is Int64: is String"),
        (lambda f: f.with_columns(extra=1), "no unknown column: column extra"),
    ],
)
def test_a_batch_that_breaks_a_batch_rule_stops(
    change: Callable[[pl.DataFrame], pl.DataFrame], stop: str
) -> None:
    """The stop says what was asked and what was found."""
    told = [f"{failure.rule}: {failure.observed}" for failure in check(change(make_batch())).stops]
    assert stop in told


def test_columns_in_another_order_are_told_and_do_no_harm() -> None:
    """A source may reorder its columns; rows are judged all the same."""
    report = check(make_batch().select(reversed(list(TABLE.schema))))
    assert [warning.rule for warning in report.warnings] == ["columns are in their usual order"]
    assert len(report.broken_rules()) == 9


def test_a_rule_that_cannot_be_computed_stops_the_batch() -> None:
    """A column that is not there, or text where a number must be: never a pass, even for a mere warning."""
    rule = Rule(
        "odd", "ExpectColumnValuesToBeBetween", {"column": "gone", "min_value": 0}, severity="warning"
    )
    missing = check(make_batch(), [rule])
    text = check(make_batch(), [rules.between("shop", 0, 1)])
    empty = check(make_batch().clear(), [rules.newest("known_at", SINCE, DAY.until)])
    assert all(r.stops[0].observed.startswith("could not be computed") for r in (missing, text, empty))


def test_a_warning_keeps_no_row_back() -> None:
    """A rule on rows that only warns is told, and its rows land."""
    rule = Rule(
        "small", "ExpectColumnValuesToBeBetween", {"column": "amount", "max_value": 50}, severity="warning"
    )
    report = check(make_batch(), [rule])
    assert report.warnings and not report.stops and not report.broken_rules()


@pytest.mark.parametrize(
    ("times", "stops", "warnings"), [(1.0, 0, 0), (1.8, 0, 1), (20.0, 1, 0), (0.1, 1, 0)]
)
def test_limits_from_the_past_are_judged_with_the_rest(times: float, stops: int, warnings: int) -> None:
    """A batch far from its past stops, once; one that is near is told."""
    report = check(make_batch(), history=make_history(times))
    assert (len(report.stops), len(report.warnings)) == (stops, warnings)
    assert all(failure.rule.startswith("rows is") for failure in (*report.stops, *report.warnings))


def test_details_come_from_the_rule_that_failed_whatever_the_order() -> None:
    """Two rules of one kind on one column keep their own verdicts."""
    two = [rules.between("amount", 0, 10_000), rules.between("amount", 0, 100)]
    assert [bool(verdict.failures) for verdict in judge(make_batch(), two)] == [False, True]


def test_numbers_that_pandas_computed_are_drawn(caplog: pytest.LogCaptureFixture) -> None:
    """Great Expectations takes NumPy's text of a number for none, and says so in a traceback a rule."""
    report = check(make_batch(), history=make_history(20.0))
    verdicts = [replace(verdict, result=copy(verdict.result)) for verdict in report.verdicts]
    for verdict in verdicts:
        verdict.result.result = {"observed_value": np.float64(28.0)}
        verdict.result.success = False
    page = render_page(replace(report, verdicts=verdicts), "sales")
    assert "28" in page
    assert not caplog.records


def test_the_page_says_what_happened_in_plain_words_and_needs_no_network() -> None:
    """Rules, outcome and measures are on it, and nothing is fetched from elsewhere."""
    page = render_page(check(make_batch(), history=make_history(20.0)), "sales, 1 May <2024>")
    for words in (
        *BROKEN,
        "The batch stopped",
        "9 rows broke a rule",
        "sales, 1 May &lt;2024&gt;",
        "age_hours",
    ):
        assert words in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "All 10 checks hold" in render_page(Report((), 10), "calm")
