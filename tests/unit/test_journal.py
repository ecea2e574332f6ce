"""The journal: what is written is read back, and what cannot be written is said."""

import asyncio
import fcntl
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from feature_repo.contract import Period
from feature_repo.errors import JournalUnavailable
from services import journal as module
from services import journal_statements, journal_writer
from services.journal import DeadLetter, Journal, LetterFilter, Outcome, Prediction, format_instant
from services.journal_records import Batch
from services.journal_sqlite import SqliteTables, unavailable

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


def fail_with(error):
    def fail(*_):
        raise error

    return fail


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


def test_dead_letters_are_bounded_in_bytes(journal, monkeypatch):
    """Large requests do not fill the disk either: the oldest go, down to the one that crosses the bound."""
    monkeypatch.setattr(journal_statements, "KEEP_BYTES", 2_500)
    for i in range(6):
        journal.append([], [DeadLetter("unseen", str(i), "x" * 999, None, format_instant(NOON))])
    assert journal.read_dead_letters(ALWAYS)["reason"].to_list() == ["3", "4", "5"]


def test_dead_letters_are_found_by_kind_time_and_id(journal):
    """The newest first to be kept by a limit, and the oldest first in the list."""
    kinds = ("malformed", "unseen", "malformed", "expired")
    for hour, kind in enumerate(kinds):
        journal.append([], [DeadLetter(kind, str(hour), "{}", None, format_instant(NOON + hour * HOUR))])

    def find(**wanted):
        return [letter.reason for letter in journal.find_dead_letters(LetterFilter(**wanted))]

    assert find() == ["0", "1", "2", "3"]
    assert find(kind="malformed") == ["0", "2"]
    assert find(since=format_instant(NOON + 2 * HOUR)) == ["2", "3"]
    assert find(limit=2) == ["2", "3"]
    assert find(ids=(2,)) == ["1"]
    assert len(find(sampled=True, limit=3)) == 3


def test_a_dead_letter_is_marked_once(journal):
    """The second mark says that there was a first, and changes nothing."""
    journal.append([], [make_letter(), make_letter()])
    assert journal.mark_replayed(1, '["a"]')
    assert not journal.mark_replayed(1, '["b"]')
    assert not journal.mark_replayed(9, '["c"]')
    assert [one.answered for one in journal.find_dead_letters(LetterFilter())] == ['["a"]', None]
    assert [one.id for one in journal.find_dead_letters(LetterFilter(waiting=True))] == [2]
    assert journal.count_dead_letters() == [("2013-03-01", "unseen", 2, 1)]


def test_a_file_of_before_is_read_and_written(tmp_path):
    """Columns that came later are added; what is there stays."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(journal_statements.SCHEMA)
        old.execute("INSERT INTO dead_letters VALUES (1, 'unseen', 'old', '{}', null, '2013-03-01')")
    with Journal(path) as journal:
        assert [letter.reason for letter in journal.find_dead_letters(LetterFilter())] == ["old"]
        journal.append([], [make_letter("new")])
        assert [letter.reason for letter in journal.find_dead_letters(LetterFilter())] == ["old", "new"]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_predictions_are_written_from_an_event_loop_too(journal, count):
    """The short way in, awaited in an event loop; whatever their number."""
    rows = [make_prediction(f"{i:03}") for i in range(count)]

    async def write_all():
        await asyncio.gather(journal.write(rows), journal.write([], [make_letter()]))

    asyncio.run(write_all())
    assert names(journal.read_predictions(ALWAYS)) == [f"{i:03}" for i in range(count)]
    assert len(journal.read_dead_letters(ALWAYS)) == 1


def test_a_check_writes(journal, tmp_path):
    """An empty transaction asks the disk for nothing: it would pass on a full one."""
    journal.check()
    journal.check()
    with closing(sqlite3.connect(tmp_path / "journal" / "journal.db")) as connection:
        assert len(connection.execute("SELECT at FROM heartbeats").fetchall()) == 1


def test_one_bad_row_does_not_fail_the_others(journal):
    """Also where the writer has to find it in one statement."""
    good, bad = [make_prediction("a")], [make_prediction("b")._replace(served_by=None)]

    async def write_all():
        return await asyncio.gather(journal.write(good), journal.write(bad), return_exceptions=True)

    told = asyncio.run(write_all())
    assert [isinstance(one, JournalUnavailable) for one in told] == [False, True]
    assert names(journal.read_predictions(ALWAYS)) == ["a"]


def test_a_disk_that_does_not_answer_is_said(journal, tmp_path, monkeypatch):
    """Whoever waits is told after a while, whoever comes at once; it works again when the disk does."""
    journal.append([make_prediction("a")])
    monkeypatch.setattr(journal_writer, "STUCK_SECONDS", 0.2)
    with (tmp_path / "journal" / "journal.db-lock").open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiting = [journal.submit([make_prediction(name)]) for name in ("b", "c")]
        assert all(isinstance(one.exception(timeout=60), JournalUnavailable) for one in waiting)
        with pytest.raises(JournalUnavailable):
            journal.append([make_prediction("d")])
        fcntl.flock(holder, fcntl.LOCK_UN)
    while True:
        try:
            journal.append([make_prediction("e")])
            break
        except JournalUnavailable:
            time.sleep(0.01)
    assert {"a", "e"} <= set(names(journal.read_predictions(ALWAYS)))


def test_more_than_the_disk_takes_is_refused_at_once(journal, tmp_path, monkeypatch):
    """What waits is bounded, so that memory is."""
    monkeypatch.setattr(journal_writer, "MAX_WAITING", 3)
    journal.append([make_prediction("a")])
    with (tmp_path / "journal" / "journal.db-lock").open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        futures = [journal.submit([make_prediction(name)]) for name in "bcde"]
        assert isinstance(futures[3].exception(timeout=0), JournalUnavailable)
        fcntl.flock(holder, fcntl.LOCK_UN)
    assert [future.exception(timeout=60) for future in futures[:3]] == [None] * 3
    journal.append([make_prediction("f")])
    assert names(journal.read_predictions(ALWAYS)) == ["a", "b", "c", "d", "f"]


def test_what_fails_beside_a_write_does_not_end_the_writing(journal):
    """Whoever counts the writes may fail: what is on disk is acknowledged, and the next batch too."""
    journal.watch_commits(fail_with(ValueError("no room to count")))
    futures = []
    for name in "abc":
        futures.append(journal.submit([make_prediction(name)]))
        futures[-1].exception(timeout=20)
    assert [future.exception(timeout=20) for future in futures] == [None] * 3
    assert names(journal.read_predictions(ALWAYS)) == ["a", "b", "c"]


def test_a_failure_in_the_midst_of_a_failure_is_told_to_who_waits(tmp_path, monkeypatch):
    """Nobody waits for ever, nothing counts as waiting any more, and the next batch is written."""
    with Journal(tmp_path / "journal.db") as journal:
        with monkeypatch.context() as broken:
            broken.setattr(SqliteTables, "insert", fail_with(unavailable("x", "a full disk")))
            broken.setattr(SqliteTables, "close", fail_with(OSError("a bad descriptor")))
            told = journal.submit([make_prediction("a")]).exception(timeout=20)
            assert isinstance(told, JournalUnavailable)
        assert journal.lag == (0, 0.0)
        journal.submit([make_prediction("b")]).result(timeout=20)
        assert names(journal.read_predictions(ALWAYS)) == ["b"]


def test_the_log_starts_again_and_does_not_grow(journal, tmp_path):
    """What was written is moved into the file beside the writing."""
    rows = [[make_prediction(f"{i:05}-{j}") for j in range(200)] for i in range(100)]
    for some in rows:
        journal.append(some)
    log, file = tmp_path / "journal" / "journal.db-wal", tmp_path / "journal" / "journal.db"
    assert log.stat().st_size < file.stat().st_size
    assert len(journal.read_predictions(ALWAYS)) == 20_000


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


def test_a_file_that_is_deleted_while_a_write_waits_for_its_turn_is_made_anew(journal, tmp_path):
    """What the file is, is asked once the lock is held: it may take seconds to get."""
    journal.append([make_prediction("a")])
    with (tmp_path / "journal" / "journal.db-lock").open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiting = journal.submit([make_prediction("b")])
        time.sleep(0.3)  # until it waits
        for path in (tmp_path / "journal").iterdir():
            path.unlink()
    assert waiting.exception(timeout=60) is None
    assert names(journal.read_predictions(ALWAYS)) == ["b"]


def test_a_file_that_is_deleted_while_it_is_synced_is_not_acknowledged(tmp_path):
    """What was written to it is written again, to the one that is read."""

    class Deleted(SqliteTables):
        times = 1

        def sync(self):
            for path in (tmp_path / "journal").iterdir() if self.times else ():
                path.unlink()
            self.times -= bool(self.times)
            return super().sync()

    path = tmp_path / "journal" / "journal.db"
    tables = Deleted(path)
    with Journal(path, tables) as journal:
        futures = [journal.submit([make_prediction(name)]) for name in ("a", "b")]
        assert [future.exception(timeout=60) for future in futures] == [None, None]
        assert names(journal.read_predictions(ALWAYS)) == ["a", "b"]
        tables.times = 99
        with pytest.raises(JournalUnavailable):
            journal.append([make_prediction("c")])
        tables.times = 0
        journal.append([make_prediction("d")])
        assert names(journal.read_predictions(ALWAYS)) == ["d"]


def test_a_log_that_was_deleted_is_made_anew(tmp_path):
    """A log that nobody else has open is one that nobody reads."""
    tables = SqliteTables(tmp_path / "journal.db")
    for name in ("a", "b"):
        with tables.turn():
            tables.insert([Batch([make_prediction(name)])])
        assert tables.sync()
        assert tables.find_prediction(name)
        (tmp_path / "journal.db-wal").unlink()
        assert not tables.sync()
    tables.close()
