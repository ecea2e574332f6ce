"""The demo starts from nothing without costing anybody anything, and is honest about what it saw."""

import io
from pathlib import Path

from rich.console import Console

from feature_repo.settings import Settings
from flows.demo import _set_aside
from flows.story import Story


def test_what_a_home_holds_is_set_aside_and_not_deleted(tmp_path: Path) -> None:
    """A lake that was there before the demo is there after it, under a name that the demo tells."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "mine").write_text("rows")
    told = io.StringIO()
    _set_aside(Settings(home=tmp_path), Console(file=told, width=500))
    (kept,) = tmp_path.glob("before-*/lake/mine")
    assert kept.read_text() == "rows"
    assert not (tmp_path / "lake").exists()
    assert kept.parent.parent.name in told.getvalue()


def test_everything_of_the_old_life_is_set_aside(tmp_path: Path) -> None:
    """Versions begin at 1 again: what is known of the old ones, and of who released them, must not stay."""
    from flows.releasing.release_state import ReleaseState

    old = ReleaseState(tmp_path)
    old.finish(old.begin("champion", 1, 2, who="ann", how="by hand", reason="better"), 0.1)
    _set_aside(Settings(home=tmp_path), Console(file=io.StringIO()))
    assert ReleaseState(tmp_path).moves() == []


def test_an_empty_home_is_left_as_it_is(tmp_path: Path) -> None:
    """Nothing to set aside: no folder is made."""
    _set_aside(Settings(home=tmp_path), Console(file=io.StringIO()))
    assert list(tmp_path.iterdir()) == []


def test_a_story_in_which_nothing_happened_misses_everything() -> None:
    """Success is what was seen: an empty story names what did not happen."""
    missing = Story().missing()
    assert "the monitor's verdict led to a retrain" in missing
    assert "requests were sent and none failed" in missing
    assert "frozen and kept model were compared" in missing
