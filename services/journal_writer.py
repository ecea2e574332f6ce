"""One thread that writes: whatever waits when its turn comes shares a transaction and a sync to disk."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, NamedTuple

from feature_repo.errors import JournalUnavailable
from services.journal_records import Batch, Tables

MAX_WAITING = 20_000  # rows; beyond it the disk does not keep up and callers are told at once
MAX_GROUP = 2_000  # rows that share a transaction, but for a last batch that is larger
STUCK_SECONDS = 5.0  # after which those who wait for a disk that does not answer are told so
TELL_SECONDS = 10.0  # between two lines of the log about a disk that takes nothing
TRIES = 3  # to write a group, if the file is replaced meanwhile
TIDY_PAGES = 1_000  # pages of the log after which it is moved into the file

log = logging.getLogger("perennial.journal")


class Job(NamedTuple):
    """A batch, and who waits for it: a thread (no loop), or a coroutine of that loop."""

    batch: Batch
    rows: int
    done: "Future[list[int]] | asyncio.Future[list[int]]"
    loop: asyncio.AbstractEventLoop | None


Results = Sequence[tuple[Job, list[int] | JournalUnavailable]]


class Writer:
    """Writes in a thread of its own, begun by the first batch; a second one tidies and keeps watch."""

    def __init__(self, tables: Tables, name: object) -> None:
        self._tables = tables
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: tuple[threading.Thread, ...] = ()
        self._waiting = 0  # rows
        self._busy_since: float | None = None
        self._group: list[Job] = []
        self._pages = TIDY_PAGES  # of the log since it was tidied, about: a killed worker may have left some
        self._keep = threading.Event()
        self._told_at = -TELL_SECONDS  # when a failure was last logged
        self.on_commit: Callable[[float], object] = lambda seconds: None

    @property
    def lag(self) -> tuple[int, float]:
        """Rows that wait for the disk, and for how many seconds the write under way has lasted."""
        since = self._busy_since
        return self._waiting, 0.0 if since is None else time.monotonic() - since

    def put(self, batch: Batch, done: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Take a batch; refuses it at once if too much waits or the disk does not answer."""
        since, rows = self._busy_since, sum(map(len, batch))
        job = Job(batch, rows, done, loop)
        stuck = since is not None and time.monotonic() - since > STUCK_SECONDS
        if stuck or self._waiting >= MAX_WAITING:
            got = "a disk that does not answer" if stuck else f"{self._waiting:,} rows waiting for the disk"
            _settle([(job, _refuse(self._name, got))])
            return
        with self._lock:
            self._waiting += rows
            if not self._threads:
                self._threads = self._start()
            self._jobs.put(job)

    def close(self) -> None:
        """Write what waits and end both threads."""
        with self._lock:
            threads, self._threads = self._threads, ()
        if threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def _start(self) -> tuple[threading.Thread, ...]:
        ended = threading.Event()
        threads = (
            threading.Thread(target=self._run, args=(ended,), name="journal", daemon=True),
            threading.Thread(target=self._watch, args=(ended,), name="journal-keeper", daemon=True),
        )
        for thread in threads:
            thread.start()
        return threads

    def _run(self, ended: threading.Event) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                begun = time.monotonic()
                self._busy_since, self._group = begun, [job]
                try:
                    self._write(self._group)
                    self._busy_since = None
                    self.on_commit(time.monotonic() - begun)
                except Exception as error:  # nobody else writes: this thread goes on
                    self._busy_since = None
                    log.exception("after a write of %d batches", len(self._group))
                    refused = _refuse(self._name, f"{type(error).__name__}: {error}")
                    _settle([(job, refused) for job in self._group])  # nothing new to who was told
        finally:
            ended.set()
            self._keep.set()
            self._tables.close()

    def _write(self, group: list[Job]) -> None:
        """Write a group that grows until its turn comes."""
        try:
            ids = self._insert(group, growing=True)
            results: list[Any] = list(zip(group, ids, strict=True))
        except Exception as error:  # noqa: BLE001 - the callers get it, whatever it is
            self._gather(group)
            results = self._write_each(group, error)
        finally:
            rows = sum(job.rows for job in group)
            with self._lock:
                self._waiting -= rows
        _settle(results)
        self._pages += 4 + rows
        if self._pages >= TIDY_PAGES:
            self._keep.set()

    def _insert(self, group: list[Job], *, growing: bool) -> list[list[int]]:
        """Make a group durable; it is written again if what it was written to is not read any more."""
        for _ in range(TRIES):
            with self._tables.turn():
                if growing:
                    self._gather(group)
                ids = self._tables.insert([job.batch for job in group])
            if self._tables.sync():
                return ids
        raise _refuse(self._name, f"another file after each of {TRIES} writes")

    def _gather(self, group: list[Job]) -> None:
        rows = sum(job.rows for job in group)
        with suppress(queue.Empty):
            while rows < MAX_GROUP:
                job = self._jobs.get_nowait()
                if job is None:  # the end was asked for: after this group
                    self._jobs.put(None)
                    return
                rows += job.rows
                group.append(job)

    def _write_each(self, group: list[Job], error: Exception) -> list[Any]:
        """Write one by one if a record is at fault, so that it does not fail the others."""
        if isinstance(error, JournalUnavailable):
            self._note_failure(error)
            self._tables.close()  # to be opened anew
            return [(job, error) for job in group]
        if len(group) == 1:
            return [(group[0], _refuse(self._name, f"{type(error).__name__}: {error}"))]
        results: list[Any] = []
        for job in group:
            try:
                [ids] = self._insert([job], growing=False)
                results.append((job, ids))
            except Exception as again:  # noqa: BLE001 - as above
                results += self._write_each([job], again)
        return results

    def _note_failure(self, error: JournalUnavailable) -> None:
        now = time.monotonic()
        if now - self._told_at > TELL_SECONDS:
            self._told_at = now
            log.error("nothing is acknowledged: %s", error)

    def _watch(self, ended: threading.Event) -> None:
        while not ended.is_set():
            due = self._keep.wait(STUCK_SECONDS / 4)
            self._keep.clear()
            since = self._busy_since
            if since is not None and time.monotonic() - since > STUCK_SECONDS:
                self._give_up()
            elif due and not ended.is_set():
                self._pages = 0
                try:
                    self._tables.tidy()
                except JournalUnavailable as error:
                    log.warning("the log stays as long as it is: %s", error)

    def _give_up(self) -> None:
        """Tell those who wait that nothing is known to be on disk; some of it may be written all the same."""
        group = list(self._group)
        with suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                group.append(job)
                with self._lock:
                    self._waiting -= job.rows
            self._jobs.put(None)
        error = _refuse(self._name, "a disk that does not answer")
        _settle([(job, error) for job in group])


def _refuse(name: object, got: str) -> JournalUnavailable:
    return JournalUnavailable(
        f"journal {name}",
        got=got,
        expected="records that are on disk at once",
        next_step="Look at the disk's space and load, and at the record.",
    )


def _settle(results: Results) -> None:
    """Tell everyone who waits; a loop is woken once for all of its own."""
    loops: dict[asyncio.AbstractEventLoop, list[Any]] = {}
    for job, result in results:
        if job.loop is not None:
            loops.setdefault(job.loop, []).append((job.done, result))
        else:
            _tell(job.done, result)
    for loop, told in loops.items():
        with suppress(RuntimeError):  # a loop that ended has nobody left who waits
            loop.call_soon_threadsafe(_tell_all, told)


def _tell_all(told: list[Any]) -> None:
    for done, result in told:
        _tell(done, result)


def _tell(done: Any, result: list[int] | JournalUnavailable) -> None:
    # A caller that gave up while it waited is told nothing; its records are written all the same.
    with suppress(InvalidStateError, asyncio.InvalidStateError):
        if isinstance(result, JournalUnavailable):
            done.set_exception(result)
        else:
            done.set_result(result)
