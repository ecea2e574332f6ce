"""How a large batch is cut up, and that nothing is decided by it."""

from pathlib import Path

import polars as pl
import pytest

from expectations import parts, rules
from expectations.pages import render_index


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows count as many."""
    monkeypatch.setattr(parts, "PART", 400)
    monkeypatch.setattr(parts, "DIRECT", 100)


def make_frame(rows: int = 2000) -> pl.DataFrame:
    """Return rows in which keys repeat far apart, a shop in ten is missing and one is unknown."""
    shops = ["north", "south", None, "moon", *["east"] * 6]
    return pl.DataFrame(
        {
            "id": [None if i == 7 else f"key-{i % 1990}" for i in range(rows)],
            "shop": [shops[i % 10] for i in range(rows)],
            "n": pl.Series(range(rows), dtype=pl.UInt16),
        }
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lazy", [False, True])
def test_rows_of_one_key_stay_together_and_none_is_lost(tmp_path: Path, lazy: bool) -> None:
    """Every row is in one part, with its position, and no key is in two."""
    frame = make_frame()
    frame.write_parquet(tmp_path / "frame.parquet")
    given = pl.scan_parquet(tmp_path / "frame.parquet") if lazy else frame
    pieces = list(parts.split(given, ["id"], lambda one: one))
    assert len(pieces) > 2
    whole = pl.concat(pieces).sort(parts.ROW)
    assert whole.drop(parts.ROW).equals(frame)
    assert whole[parts.ROW].to_list() == list(range(len(frame)))
    keys = [set(piece["id"]) for piece in pieces]
    assert sum(map(len, keys)) == len(set().union(*keys))


def test_an_empty_file_is_one_empty_part(tmp_path: Path) -> None:
    """No rows are still judged: batch rules have their say."""
    make_frame().clear().write_parquet(tmp_path / "frame.parquet")
    (part,) = parts.split(pl.scan_parquet(tmp_path / "frame.parquet"), ["id"], lambda one: one)
    assert len(part) == 0 and parts.ROW in part.columns


@pytest.mark.usefixtures("small")
def test_a_value_is_judged_once_and_all_its_rows_fail() -> None:
    """The sight by value has each shop once; a failing one leads back to every row that has it."""
    frame, rule = make_frame(), rules.one_of("shop", ["north", "south", "east"])
    (sight,) = parts.see(frame, [rule])
    assert sight.by_value
    assert set(sight.frame["shop"]) == {"east", "moon", None, "north", "south"}
    at = sight.frame["shop"].to_list().index("moon")
    assert sight.find_rows(rule, [at], frame) == tuple(range(3, 2000, 10))


@pytest.mark.usefixtures("small")
def test_a_missing_value_leads_back_to_the_rows_that_lack_it() -> None:
    """Null is a value of its own when presence is asked for."""
    frame, rule = make_frame(), rules.present("shop")[0]
    (sight,) = parts.see(frame, [rule])
    at = sight.frame["shop"].to_list().index(None)
    assert sight.find_rows(rule, [at], frame) == tuple(range(2, 2000, 10))


@pytest.mark.usefixtures("small")
def test_numbers_that_stand_for_text_are_equal_where_the_text_is() -> None:
    """Ten keys come twice and one is missing, in text and in numbers alike."""
    frame = make_frame()
    (sight,) = parts.see(frame, [rules.unique("id"), *rules.present("id")])
    codes = sight.frame["id"]
    assert codes.dtype == pl.Int64
    assert codes.is_null().to_list() == frame["id"].is_null().to_list()
    assert codes.is_duplicated().to_list() == frame["id"].is_duplicated().to_list()


def test_a_small_batch_is_handed_over_as_it_is() -> None:
    """All rules see all rows, numbers in the widths that are judged quickly."""
    frame = make_frame()
    (sight,) = parts.see(frame, [rules.unique("id"), rules.between("n", 0, 5000)])
    assert sight.frame["id"].equals(frame["id"])
    assert sight.frame.schema["n"] == pl.Int64


def test_the_list_of_batches_links_pages_and_escapes_what_it_shows() -> None:
    """A batch without a page has no link; what a source named cannot become markup."""
    page = render_index(
        [{"batch": "<b>1</b>", "status": "landed", "page": "a.html"}, {"batch": "2", "status": "x"}]
    )
    assert 'href="a.html"' in page and "&lt;b&gt;1&lt;/b&gt;" in page and page.count("<a ") == 1
