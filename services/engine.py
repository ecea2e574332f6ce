"""Requests in, durable answers out: what waits together is answered together, in a thread of its own.

While a group is answered, the next one gathers; nobody waits for a group to fill. A group's records are one
write of the journal, and its answers leave when that is on disk.

When more comes than can be answered: with over SHED rows waiting, a request is answered by the rule, at once,
without a model; with over REFUSE, it is refused (Overloaded: 503, Retry-After). Both are counted.

A group that hangs is given up after a deadline: what it hangs in (the store, a model version) is left alone
for a while, and the group is answered without it, in a new thread.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from services.answering import Answered, Answering
from services.journal import Journal

GROUP = 256  # rows answered together, or one request's list if that is longer
SHED = 2_000  # waiting rows
REFUSE = 10_000
MAX_HUNG = 16  # threads that were given up and have not come back: beyond it the rule answers
CHECKS = 10  # of the deadline, while it runs

log = logging.getLogger("perennial.service")


class Overloaded(Exception):
    """More waits than can be answered in time."""


@dataclass(slots=True)
class Asked:
    """One request: its rows, the JSON that each came as, and the answer to come."""

    rows: Sequence[Mapping[str, Any]]
    sent: Sequence[bytes]
    answer: "asyncio.Future[Answered]"


@dataclass(slots=True)
class Group:
    """Requests that are answered together. Whoever takes the claim, the thread or the watch, answers them."""

    asked: list[Asked]
    without: frozenset[str] = frozenset()
    since: float = field(default_factory=time.monotonic)
    claim: list[bool] = field(default_factory=lambda: [True])

    def take_claim(self) -> bool:
        """Return whether the group is the caller's to answer: once."""
        try:
            return self.claim.pop()
        except IndexError:
            return False


Queue = queue.SimpleQueue[Asked | Group | None]


class Engine:
    """Answers requests on one event loop, between `start` and `stop`."""

    def __init__(self, answering: Answering, journal: Journal, deadline: float) -> None:
        self._answering = answering
        self._journal = journal
        self._deadline = deadline
        self._queue: Queue = queue.SimpleQueue()
        self._shed: Queue = queue.SimpleQueue()
        self._waiting = 0  # rows; touched by the loop alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: list[_Worker] = []  # the one that asks models, the one that does not
        self._hung: list[_Worker] = []
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start on the running loop."""
        self._loop = asyncio.get_running_loop()
        by_rule = _Worker(self._shed, self._answer_by_rule)
        self._workers = [_Worker(self._queue, self._answer), by_rule]
        self._watch = self._loop.create_task(self._watch_deadlines())

    async def stop(self) -> None:
        """Answer what waits, and end the threads."""
        if self._watch:
            self._watch.cancel()
        for worker in self._workers:
            worker.waiting.put(None)
            await asyncio.to_thread(worker.join, 5)

    async def ask(self, rows: Sequence[Mapping[str, Any]], sent: Sequence[bytes]) -> Answered:
        """Answer rows; return when the journal has them. Raises JournalUnavailable, Overloaded."""
        assert self._loop is not None, "start first"
        if self._waiting > REFUSE:
            raise Overloaded
        answer: asyncio.Future[Answered] = self._loop.create_future()
        shed = self._waiting > SHED or len(self._hung) > MAX_HUNG
        self._waiting += len(rows)
        try:
            (self._shed if shed else self._queue).put(Asked(rows, sent, answer))
            return await answer
        finally:
            self._waiting -= len(rows)

    @property
    def waiting(self) -> int:
        """Rows that wait for an answer."""
        return self._waiting

    def _answer(self, group: Group) -> bool:
        """Answer a group and hand it to the journal; runs in the first worker."""
        return self._run(group, lambda asked: self._answering.answer_groups(asked, group.without))

    def _answer_by_rule(self, group: Group) -> bool:
        """Answer a group without store or model; runs in the second worker."""
        return self._run(
            group, lambda asked: self._answering.answer_by_rule(asked, "overloaded", group.without)
        )

    def _run(self, group: Group, answer: Callable[[Any], list[Answered]]) -> bool:
        """Answer a group; return False if it was given up meanwhile."""
        try:
            made = answer([(asked.rows, asked.sent) for asked in group.asked])
        except Exception as error:  # the requests must hear of it
            log.exception("a group of %d requests", len(group.asked))
            if claimed := group.take_claim():
                self._tell(group, [error] * len(group.asked))
            return claimed
        if claimed := group.take_claim():
            self._write(group, made)
        return claimed

    def _write(self, group: Group, made: list[Answered]) -> None:
        predictions = [p for one in made for p in one.predictions]
        dead_letters = [d for one in made for d in one.dead_letters]

        def tell(done: "Future[None]") -> None:
            error = done.exception()
            try:
                if error is None and (score_again := made[0].score_again):
                    score_again()
            finally:
                self._tell(group, made if error is None else [error] * len(made))

        self._journal.submit(predictions, dead_letters).add_done_callback(tell)

    def _tell(self, group: Group, outcomes: Sequence[Answered | BaseException]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_settle, group, outcomes)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.info("%d answers came after the end", len(outcomes))

    async def _watch_deadlines(self) -> None:
        pause = self._deadline / CHECKS
        seen = time.monotonic()
        while True:
            await asyncio.sleep(pause)
            self._hung = [worker for worker in self._hung if worker.is_alive()]
            now = time.monotonic()
            late, seen = now - seen - pause, now
            for worker in list(self._workers):
                group = worker.group
                if group is None:
                    continue
                if late > pause:  # this process stood still: so did the worker
                    group.since += late
                elif now - group.since > self._deadline and self._may_give_up(worker) and group.take_claim():
                    self._give_up(worker, group)

    def _may_give_up(self, worker: "_Worker") -> bool:
        # Beyond the rule's worker there is nobody: it is left alone but for a call that can be left out.
        return worker.waiting is self._queue or self._answering.circuits.is_calling(worker.ident or 0)

    def _give_up(self, worker: "_Worker", group: Group) -> None:
        """Answer a group that hangs without what it hangs in, in a new thread."""
        name = self._answering.circuits.give_up(worker.ident or 0)
        log.error("no answer after %g s in %s: going on without", self._deadline, name or "our own code")
        if worker.next:
            worker.waiting.put(worker.next)
        self._hung.append(worker)
        self._workers[self._workers.index(worker)] = _Worker(worker.waiting, worker.answer)
        again = Group(group.asked, group.without | {name or ""})
        (worker.waiting if name else self._shed).put(again)


class _Worker(threading.Thread):
    """Takes all that waits, up to a group, and answers it. Ends with a group whose claim the watch took."""

    def __init__(self, waiting: "Queue", answer: Callable[[Group], bool]) -> None:
        super().__init__(name="answering", daemon=True)
        self.waiting = waiting
        self.answer = answer
        self.next: Group | None = None
        self.group: Group | None = None
        self.start()

    def run(self) -> None:
        """Answer until told to end, or given up."""
        ending, mine = False, True
        while mine and not ending:
            group, ending = self._take()
            if group.asked:
                group.since = time.monotonic()  # one that was put back has waited since
                self.group = group
                mine = self.answer(group)
                self.group = None

    def _take(self) -> tuple[Group, bool]:
        first = self.next or self.waiting.get()
        self.next = None
        if first is None:
            return Group([]), True
        if isinstance(first, Group):
            return first, False
        asked, size = [first], len(first.rows)
        while size < GROUP:
            try:
                following = self.waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return Group(asked), True
            if isinstance(following, Group):
                self.next = following
                break
            asked.append(following)
            size += len(following.rows)
        return Group(asked), False


def _settle(group: Group, outcomes: Sequence[Answered | BaseException]) -> None:
    for asked, outcome in zip(group.asked, outcomes, strict=True):
        if asked.answer.done():  # the client went away
            continue
        if isinstance(outcome, BaseException):
            asked.answer.set_exception(outcome)
        else:
            asked.answer.set_result(outcome)
