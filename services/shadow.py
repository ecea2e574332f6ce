"""The challenger's scores of what the champion answered: made off the request path, journalled, never heard.

What waits is bounded: a challenger that is slower than the traffic misses some of it, which is counted.
"""

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from feature_repo.errors import JournalUnavailable
from feature_repo.freshness import OnlineVector
from services.journal import Journal, ShadowScore, format_instant
from services.ladder import Scorer, is_probability
from services.metrics import Metrics

MAX_WAITING = 20_000  # rows, with those that are being scored
PAUSE = 0.1  # seconds in which answers gather, so that they are scored and written together

log = logging.getLogger("perennial.shadow")


class Answers(NamedTuple):
    """Answers that a version is to score again: their ids, rows and stored features."""

    scorer: Scorer
    ids: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    vectors: Sequence[OnlineVector]


class Shadow:
    """Scores in a thread of its own, begun by the first answers."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        self._waiting: queue.SimpleQueue[Answers | None] = queue.SimpleQueue()
        self._rows = 0  # that wait or are being scored
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(
        self,
        scorer: Scorer,
        ids: Sequence[str],
        rows: Sequence[Mapping[str, Any]],
        vectors: Sequence[OnlineVector],
    ) -> None:
        """Take answers to score again; never waits."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
            if fits := self._rows + len(ids) <= MAX_WAITING:
                self._rows += len(ids)
        if fits:
            self._waiting.put(Answers(scorer, ids, rows, vectors))
        else:
            self._metrics.shadow_dropped.labels("behind").inc(len(ids))

    def stop(self) -> None:
        """Score what waits, and end the thread."""
        if self._thread:
            self._waiting.put(None)
            self._thread.join(5)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            time.sleep(PAUSE)
            taken: list[Answers | None] = [first]
            while not self._waiting.empty() and taken[-1] is not None:
                taken.append(self._waiting.get())
            scores = [score for answers in taken if answers for score in self._score(answers)]
            with self._lock:
                self._rows -= sum(len(answers.ids) for answers in taken if answers)
            self._write(scores)
            if taken[-1] is None:
                return

    def _score(self, answers: Answers) -> list[ShadowScore]:
        scorer = answers.scorer
        try:
            gathered = [scorer.inputs.gather(*one) for one in zip(answers.rows, answers.vectors, strict=True)]
            scores = [float(score) for score in scorer.predict(gathered, answers.vectors)]
            told = list(zip(answers.ids, scores, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever a challenger does, nobody is to notice
            log.warning("challenger %s failed on %d rows: %s", scorer.version, len(answers.ids), error)
            self._metrics.shadow_dropped.labels("failed").inc(len(answers.ids))
            return []
        if wrong := sum(not is_probability(score) for score in scores):
            log.warning(
                "challenger %s: %d scores of %d are no probabilities", scorer.version, wrong, len(told)
            )
            self._metrics.shadow_dropped.labels("failed").inc(wrong)
        now = format_instant(datetime.now(UTC))
        return [ShadowScore(key, scorer.version, score, now) for key, score in told if is_probability(score)]

    def _write(self, scores: Sequence[ShadowScore]) -> None:
        if not scores:
            return
        try:
            self._journal.submit_shadows(scores).result()
            self._metrics.shadow_scores.inc(len(scores))
        except JournalUnavailable as error:
            log.warning("%d scores of the challenger are lost: %s", len(scores), error)
            self._metrics.shadow_dropped.labels("journal").inc(len(scores))
