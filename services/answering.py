"""From decoded rows to answers and the records of them: features, ladder, flags, dead letters."""

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
import polars as pl

from feature_repo.contract import Problem
from feature_repo.online_tables import to_microseconds
from feature_repo.store import OnlineVector
from services.breaker import Circuits, Resting
from services.inputs import Inputs
from services.journal import DeadLetter, Prediction, format_instant
from services.ladder import Answer, Rungs, fall
from services.live import Serving
from services.metrics import Metrics
from services.routing import climb_arms
from services.shadow import Shadow

SEVERITY = (
    "wrong_type",
    "unseen",
    "out_of_range",
    "missing",
    "expired",
)  # a dead letter's kind is the first that applies
MAX_REASON = 1_000  # characters
VARIANTS = "89ab"
_encode = msgspec.json.Encoder().encode
NOTHING = OnlineVector({}, (), {})

Rows = Sequence[Mapping[str, Any]]

log = logging.getLogger("perennial.service")


class Store(Protocol):
    """What is needed of the feature store."""

    def read_online(self, rows: Sequence[Mapping[str, Any]]) -> list[OnlineVector]:
        """Return each row's features."""


class Models(Protocol):
    """What is needed of the live models."""

    @property
    def serving(self) -> Serving:
        """What serves now."""

    def read_status(self) -> dict[str, Any]:
        """Return what /live says of the models."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What goes to the client, and what goes to the journal first.

    score_again  hands what was answered together to the challenger's shadow, once the journal has it
    """

    bodies: list[dict[str, Any]]
    predictions: list[Prediction]
    dead_letters: list[DeadLetter]
    score_again: Callable[[], None] | None = None


class Answering:
    """Answers every well-formed request, whatever of models, store and features is gone."""

    def __init__(
        self, problem: Problem, store: Store, models: Models, metrics: Metrics, shadow: Shadow | None = None
    ) -> None:
        self._problem = problem
        self._store = store
        self._models = models
        self._metrics = metrics
        self._shadow = shadow
        self._blank = Inputs.of(problem)
        self._stored = tuple(f.name for f in problem.features if f.source != "request")
        self._asked = tuple(f.name for f in problem.features if f.source == "request")
        self.circuits = Circuits()
        self.store_trouble: str | None = None

    def answer(self, rows: Rows, requests: Sequence[bytes]) -> Answered:
        """Answer rows (entity, decided_at, request fields); `requests` is the JSON that each came as."""
        return self.answer_groups([(rows, requests)])[0]

    def answer_groups(
        self, asked: Sequence[tuple[Rows, Sequence[bytes]]], without: Collection[str] = ()
    ) -> list[Answered]:
        """Answer some requests together, each of some rows.

        without  names of circuits (the store, a version) that they hang in: these are not called
        """
        serving = self._models.serving  # one look: all are answered by the same versions
        rungs = self._look_up(serving, without)
        rows: Rows = [row for part, _ in asked for row in part]
        vectors: list[OnlineVector] = []
        try:
            rows = self._add_features(rows, without)
            vectors = self._read_store(rows, without)
            answers = climb_arms(
                rungs, rows, vectors, self._problem.entity, self._problem.calendar, self.circuits
            )
        except Exception as error:
            if not isinstance(error, Resting):
                log.exception("request-time features of %d rows", len(rows))
            answers = [self._answer_alone(rungs, row) for row in rows]
        made = self._record_all(asked, answers)
        if self._shadow and serving.challenger and not serving.canary and vectors:
            ids = [prediction.prediction_id for one in made for prediction in one.predictions]
            put = partial(self._shadow.put, serving.challenger, ids, rows, vectors)
            made[0] = replace(made[0], score_again=put)
        return made

    def answer_by_rule(
        self, asked: Sequence[tuple[Rows, Sequence[bytes]]], reason: str, without: Collection[str] = ()
    ) -> list[Answered]:
        """Answer some requests without store or model: by the rule, else the prior. Nothing is flagged."""
        rungs = self._look_up(self._models.serving)
        rows: Rows = [row for part, _ in asked for row in part]
        try:
            rows = self._add_features(rows, without)
        except Exception as error:  # noqa: BLE001 - the rule has a rate for what it knows nothing of
            log.debug("request-time features of %d rows: %s", len(rows), error)
        return self._record_all(asked, [fall(rungs, row, NOTHING, reason, None) for row in rows])

    def _record_all(
        self, asked: Sequence[tuple[Rows, Sequence[bytes]]], answers: Sequence[Answer]
    ) -> list[Answered]:
        self._metrics.note_answers(answers)
        now, given = datetime.now(UTC), iter(answers)
        return [self._record(part, [next(given) for _ in part], sent, now) for part, sent in asked]

    def _look_up(self, serving: Serving, without: Collection[str] = ()) -> Rungs:
        return Rungs(
            serving.champion,
            serving.previous,
            serving.rule,
            self._problem.prior,
            self._blank,
            serving.reason,
            without,
            serving.canary,
            serving.terms.share,
        )

    def _add_features(self, rows: Rows, without: Collection[str] = ()) -> list[dict[str, Any]]:
        def compute() -> list[dict[str, Any]]:
            fields = self._problem.request_fields.items()  # all that the function reads
            frame = _Few([_to_series(name, kind, [row[name] for row in rows]) for name, kind in fields])
            computed = self._problem.add_request_features(frame)
            names = [name for name in self._asked if name in computed]
            made = [{**row} for row in rows]
            for name in names:
                for row, value in zip(made, computed[name].to_list(), strict=True):
                    row[name] = value
            return made

        return self.circuits.call("request features", compute, without)

    def _answer_alone(self, rungs: Rungs, row: Mapping[str, Any]) -> Answer:
        try:
            rows = self._add_features([row], rungs.without)
            vectors = self._read_store(rows, rungs.without)
            known = self._problem.entity, self._problem.calendar, self.circuits
            return climb_arms(rungs, rows, vectors, *known)[0]
        except Exception as error:  # noqa: BLE001 - logged with the batch; the answer names the reason
            log.debug("request-time features of %s: %s", row[self._problem.entity], error)
            return fall(rungs, row, NOTHING, "request_features_failed", self._problem.calendar)

    def _read_store(self, rows: list[dict[str, Any]], without: Collection[str]) -> list[OnlineVector]:
        try:
            vectors = self.circuits.call("store", lambda: self._store.read_online(rows), without)
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the ladder answers
            if self.store_trouble is None:
                log.warning("answering without the feature store: %s", error)
            if not isinstance(error, Resting):
                self.store_trouble = f"{type(error).__name__}: {error}"
            self._metrics.store_failures.inc()
            return [OnlineVector(dict.fromkeys(self._stored), self._stored, {}) for _ in rows]
        self.store_trouble = None
        self._metrics.note_vectors(vectors)
        return vectors

    def _record(
        self, rows: Rows, answers: Sequence[Answer], requests: Sequence[bytes], now: datetime
    ) -> Answered:
        received, made = format_instant(now), Answered([], [], [])
        entity_name, instant_name = self._problem.entity, self._problem.decided_at
        ids = make_ids(now, len(rows))
        for row, answer, request, identity in zip(rows, answers, requests, ids, strict=True):
            entity, decided, asked = row[entity_name], row[instant_name], request.decode()
            score, served_by, reason, version, found, _, told = answer
            flags = [_tell(flag) for flag in found] if found else []
            made.bodies.append(
                {
                    "prediction_id": identity,
                    entity_name: entity,
                    "probability": score,
                    "model_version": version,
                    "served_by": served_by,
                    "reason": reason,
                    "flags": flags,
                    "requested_at": decided,
                }
            )
            made.predictions.append(
                Prediction(
                    identity,
                    entity,
                    format_instant(decided),
                    received,
                    version,
                    served_by,
                    reason,
                    score,
                    told,
                    _encode(flags).decode() if flags else "[]",
                    asked,
                )
            )
            if flags:
                made.dead_letters.append(_bury(answer, asked, received))
        return made


class _Few(pl.DataFrame):
    """A frame of few rows: handing its columns to Polars' threads takes longer than computing them here."""

    def with_columns(self, *exprs: Any, **named_exprs: Any) -> pl.DataFrame:
        """Add columns, one after the other."""
        return self.with_columns_seq(*exprs, **named_exprs)


def _to_series(name: str, kind: Any, values: list[Any]) -> pl.Series:
    """Return one request field of some rows. Polars takes seven times as long to read instants."""
    if isinstance(kind, pl.Datetime) and kind.time_unit == "us" and kind.time_zone:
        counts = [None if value is None else to_microseconds(value) for value in values]
        return pl.Series(name, counts, dtype=pl.Int64).cast(kind)
    return pl.Series(name, values, dtype=kind)


def make_ids(now: datetime, count: int) -> list[str]:
    """Return version 7 UUIDs (RFC 9562): they sort by the millisecond that they were made in."""
    millisecond, chance = f"{int(now.timestamp() * 1_000):012x}", os.urandom(10 * count).hex()
    ids = []
    for start in range(0, 20 * count, 20):
        part = chance[start : start + 20]
        variant = VARIANTS[int(part[3], 16) & 0x3]
        ids.append(f"{millisecond[:8]}-{millisecond[8:]}-7{part[:3]}-{variant}{part[4:7]}-{part[7:19]}")
    return ids


def _tell(flag: Any) -> dict[str, Any]:
    return {"feature": flag.feature, "kind": flag.kind, "got": flag.got}


def _bury(answer: Answer, request: str, received: str) -> DeadLetter:
    kinds = {flag.kind for flag in answer.flags}
    kind = next(kind for kind in SEVERITY if kind in kinds)
    if answer.reason == "features_unavailable":
        kind = answer.reason
    told = "; ".join(f"{flag.feature} {flag.kind}: {flag.got}" for flag in answer.flags)
    return DeadLetter(kind, told[:MAX_REASON], request, answer.model_version, received)
