"""The drill's record is honest: it passes only what was noticed, recovered from, and cost no request."""

import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo.contract import Delivery, Period
from feature_repo.errors import StackError
from feature_repo.settings import Settings
from flows.drill.incident import MODES, TITLES, Curve, Diary, Incident
from flows.drill.progress import EXPECTED, Progress
from flows.drill.report import draw_report, write_report
from flows.drill.run import INJECT, describe, tell_end, write_record
from flows.drill.stage import FOLDER, MARK, Feed, clear_home, find_ports, make_settings
from flows.drill.table import COLUMNS, list_cells
from flows.loop import reach_back
from flows.manifests import LANDED, STOPPED, UNCHANGED, Manifest

DAY = Period(datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 3, 2, tzinfo=UTC))


def tell_incident(*left_out: str, failed: list[str] | None = None) -> Incident:
    """Return a record of a mode in which all happened but what is named."""
    diary = Diary("skew")
    steps = {
        "injected": lambda: diary.inject("<b>values</b> changed", DAY.since),
        "noticed": lambda: diary.notice("probe", "12 of 13 values are wrong", DAY.until),
        "answered": lambda: diary.answer("ingest", "overwrote them"),
        "mended": lambda: diary.mend("nothing"),
        "well": lambda: diary.recover("probe", "none is wrong", DAY.until),
    }
    for what, step in steps.items():
        if what not in left_out:
            step()
    diary.curves.append(Curve("wrong", "share", ((DAY.since, 0.0), (DAY.until, 1.0))))
    return diary.close(7, failed or [])


def test_what_was_injected_noticed_and_over_passes() -> None:
    """A mode passes without a word where all of it happened."""
    told = tell_incident()
    assert told.ok
    assert told.explain() == ()


@pytest.mark.parametrize("step", ["injected", "noticed", "well"])
def test_a_mode_fails_without_each_of_its_steps(step: str) -> None:
    """Nothing injected, nobody who noticed, or no recovery: each alone is a failure that is named."""
    told = tell_incident(step)
    assert not told.ok
    assert len(told.explain()) == 1


def test_a_failed_request_or_a_thing_that_lacks_fails_a_mode() -> None:
    """Noticed and recovered from is not enough where a request was lost or a wanted thing did not happen."""
    assert not tell_incident(failed=["HTTP 500: no"]).ok
    diary = Diary("drift")
    assert not diary.require([], "no retrain was asked for")
    assert diary.require([1], "never said")
    assert diary.close(0, []).lacking == ("no retrain was asked for",)


def test_every_mode_has_an_injection_a_title_and_an_expected_time() -> None:
    """No mode is forgotten in one of the places that name them."""
    assert {*MODES} == {*TITLES} == {*INJECT} == {*EXPECTED} - {"prepare"}


def test_the_table_says_nobody_and_nothing_where_that_is_so() -> None:
    """A cell is never left empty: who did not notice is told."""
    cells = dict(
        zip(COLUMNS, list_cells(tell_incident("noticed", "answered", "mended", "well")), strict=True)
    )
    assert cells["noticed"] == "by nobody"
    assert cells["well again"] == "no"
    assert cells["mode"].startswith("FAILED")


def test_the_report_is_one_page_that_loads_nothing_and_escapes_what_it_tells(tmp_path: Path) -> None:
    """It can be sent to anybody: no address in it, every curve drawn, no markup of what was told."""
    page = write_report(Settings(home=tmp_path), [tell_incident(), tell_incident("well")]).read_text()
    assert not re.search(r"https?://|src=|@import|<link|<script", page)
    assert page.count("<polyline") == 2
    assert "<b>values</b>" not in page
    assert "1 of 2 modes" in page


def test_a_report_of_nothing_and_of_one_instant_can_be_drawn() -> None:
    """No curve, no mark: still a page."""
    assert "0 of 1 modes" in draw_report([Diary("drift").close(0, [])])


def test_the_record_tells_why_each_mode_failed(tmp_path: Path) -> None:
    """For programs: every mode with its marks, and in words what lacks."""
    assert write_record(Settings(home=tmp_path), [tell_incident()]).exists()
    [told] = describe([tell_incident("well")])["modes"]
    assert (told["mode"], told["ok"], told["why"]) == ("skew", False, ["it did not recover"])


def test_the_line_at_a_modes_end_says_why_it_failed() -> None:
    """Whoever watches need not wait for the last mode to learn that the first one failed."""
    assert tell_end(tell_incident()).startswith("skew: passed in ")
    assert tell_end(tell_incident("well")).endswith("it did not recover")


def test_a_feed_gives_nothing_of_a_table_that_is_held_back_and_all_of_it_later() -> None:
    """What is held back is late, not lost."""
    frame = pl.DataFrame({"a": [1, 2]})
    feed = Feed(lambda table, period: Delivery(frame))
    feed.held.add("arrivals")
    assert len(feed("arrivals", DAY).frame) == 0
    assert len(feed("weather", DAY).frame) == 2
    feed.held.clear()
    assert feed("arrivals", DAY).frame.equals(frame)


def test_a_drill_empties_the_home_of_a_drill_and_refuses_any_other(tmp_path: Path) -> None:
    """Nothing that a user could have put there is ever deleted."""
    settings = make_settings(Settings(home=tmp_path))
    (settings.home / "lake").mkdir()
    again = make_settings(Settings(home=tmp_path))
    assert again.home == tmp_path / FOLDER / "home"
    assert not (again.home / "lake").exists()
    (again.home / MARK).unlink()
    with pytest.raises(StackError, match="no drill made"):
        make_settings(Settings(home=tmp_path))
    clear_home(again.home)
    assert again.home.exists()


def test_a_drills_stack_shares_no_port_with_the_users() -> None:
    """Beside a running stack: every port is another one, and no two are the same."""
    ports = find_ports(7)
    assert len({*ports}) == 7


def test_progress_tells_what_is_left_by_the_pace_so_far() -> None:
    """The share done grows to all of it, and no time is left at the end."""
    said: list[str] = []
    progress = Progress(["prepare", "skew"], said.append)
    progress.tell("begin")
    progress.done("prepare")
    progress.tell("half")
    progress.done("skew")
    progress.tell("end")
    assert "0%" in said[0]
    assert "100%, about 0 min left" in said[2]


@pytest.mark.parametrize(("status", "days"), [(LANDED, 3), (STOPPED, 0), (UNCHANGED, 0)])
def test_a_day_reaches_back_to_what_landed_late(status: str, days: int) -> None:
    """Outcomes that a broken feed sends days later are joined to the answers of their own days."""
    told = {field.name: None for field in fields(Manifest)} | {"status": status}
    late = Manifest(**told | {"since": DAY.since - timedelta(days=3), "until": DAY.until})  # type: ignore[arg-type]
    assert reach_back(DAY, [late]) == Period(DAY.since - timedelta(days=days), DAY.until)
    assert reach_back(DAY, []) == DAY
