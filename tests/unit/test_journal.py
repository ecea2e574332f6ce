"""The journal: what is written is read back, and what cannot be written is said."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from feature_repo.contract import Period
from feature_repo.errors import JournalUnavailable
from services import journal as module
from services import journal_statements
from services.journal import DeadLetter, Journal, Outcome, Prediction, format_instant

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALWAYS = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal" / "journal.db") as opened:
        yield opened


def make_prediction(name, at=NOON):
    instant = format_instant(at)
    return Prediction(name, f"f-{name}", instant, instant, "1", "champion", "ok", 0.5, "{}", "[]", "{}")


def make_letter(reason="carrier"):
    return DeadLetter("unseen", reason, "{}", None, format_instant(NOON))


def names(frame):
    return frame["prediction_id"].to_list()


def test_a_prediction_comes_back_as_it_went(journal):
    """Every column survives."""
    journal.append([make_prediction("a")])
    [row] = journal.read_predictions(ALWAYS).to_dicts()
    assert Prediction(**row) == make_prediction("a")


def test_a_period_holds_its_start_and_not_its_end(journal):
    """Periods are half-open, so that two in a row read everything once."""
    journal.append([make_prediction(str(i), NOON + i * HOUR) for i in range(3)])
    assert names(journal.read_predictions(Period(NOON, NOON + 2 * HOUR))) == ["0", "1"]


def test_reading_before_anything_was_written_gives_nothing(tmp_path):
    """An absent journal is an empty one, with its columns."""
    journal = Journal(tmp_path / "journal.db")
    assert journal.read_predictions(ALWAYS).columns == list(module.COLUMNS["predictions"])
    assert journal.read_outcomes(ALWAYS).is_empty()
    assert journal.read_dead_letters(ALWAYS).is_empty()


def test_many_writers_at_once_lose_nothing(journal):
    """Batches that wait together share a transaction, and each is answered."""

    async def write_all():
        await asyncio.gather(
            *(asyncio.wrap_future(journal.submit([make_prediction(f"{i:03}")])) for i in range(200))
        )

    asyncio.run(write_all())
    assert names(journal.read_predictions(ALWAYS)) == [f"{i:03}" for i in range(200)]


def test_one_bad_batch_does_not_fail_the_others(journal):
    """A batch that breaks a rule of the file fails alone."""
    journal.append([make_prediction("a")])
    futures = [journal.submit([make_prediction(name)]) for name in ("b", "a", "c")]
    errors = [future.exception() for future in futures]
    assert [isinstance(error, JournalUnavailable) for error in errors] == [False, True, False]
    assert names(journal.read_predictions(ALWAYS)) == ["a", "b", "c"]


def test_a_caller_that_gives_up_does_not_stop_the_writer(journal):
    """Requests are cancelled; the journal goes on for the others."""
    futures = [journal.submit([make_prediction(f"{i:03}")]) for i in range(100)]
    given_up = [future.cancel() for future in futures]
    journal.append([make_prediction("last")])
    assert any(given_up)
    assert "last" in names(journal.read_predictions(ALWAYS))


def test_an_outcome_by_prediction_gets_its_entity(journal):
    """What a prediction was about is looked up; an unknown one is kept all the same."""
    journal.append([make_prediction("a")])
    ids = journal.submit_outcomes(
        [Outcome(None, "a", 1.0, "arrived", NOON), Outcome(None, "gone", None, "cancelled", NOON)]
    ).result()
    told = journal.read_outcomes(ALWAYS)
    assert told["outcome_id"].to_list() == ids
    assert told["entity"].to_list() == ["f-a", None]
    assert told["outcome"].to_list() == [1.0, None]


def test_dead_letters_are_bounded(journal, monkeypatch):
    """The newest are kept."""
    monkeypatch.setattr(journal_statements, "KEEP_DEAD_LETTERS", 3)
    for i in range(5):
        journal.append([], [make_letter(str(i))])
    assert journal.read_dead_letters(ALWAYS)["reason"].to_list() == ["2", "3", "4"]


def test_what_cannot_be_written_is_said(tmp_path):
    """A folder where the file should be: no silence, and it works again once that is mended."""
    path = tmp_path / "journal.db"
    path.mkdir()
    with Journal(path) as journal:
        with pytest.raises(JournalUnavailable):
            journal.append([make_prediction("a")])
        with pytest.raises(JournalUnavailable):
            journal.check()
        path.rmdir()
        journal.check()
        journal.append([make_prediction("a")])
        assert names(journal.read_predictions(ALWAYS)) == ["a"]


def test_a_file_that_was_deleted_is_made_anew(journal, tmp_path):
    """Writes never go to a file that nobody can read any more."""
    journal.append([make_prediction("a")])
    for path in (tmp_path / "journal").iterdir():
        path.unlink()
    journal.append([make_prediction("b")])
    assert names(journal.read_predictions(ALWAYS)) == ["b"]
