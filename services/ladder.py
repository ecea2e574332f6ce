"""Which rung answers: champion, else previous, else the rule, else the prior. Pure.

Reasons, all there are:

ok                       the champion answered
no_champion              nothing is the champion
champion_refused         the version that the alias names did not pass its checks
champion_failed          the champion raised, or its scores were no probabilities
features_unavailable     more than half of the store-backed features are missing or expired
request_features_failed  the request-time features could not be computed
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from feature_repo.store import OnlineVector

ENOUGH = 0.5  # share of store-backed features that may be missing or expired before a model is not asked
MARGIN = 0.1  # of the range seen in training, by which a number may lie outside it unflagged

log = logging.getLogger("perennial.ladder")


@dataclass(frozen=True, slots=True)
class Flag:
    """One input that the model does not know: missing, unseen, out_of_range or expired (got: age in s)."""

    feature: str
    kind: str
    got: str | float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A score, and where it came from; `features` are the exact values used, in order."""

    score: float
    served_by: str
    reason: str
    model_version: str | None
    flags: tuple[Flag, ...]
    features: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rate per whole value of one feature: the answer without a model. It comes with a model version."""

    version: str
    by: str
    rates: Mapping[str, float]
    base_rate: float

    def score(self, features: Mapping[str, Any]) -> float:
        """Return the rate of the row's group, or the base rate."""
        value = features.get(self.by)
        key = str(int(value)) if isinstance(value, int | float) and math.isfinite(value) else str(value)
        return self.rates.get(key, self.base_rate)


class Scorer(Protocol):
    """A model that may be asked."""

    @property
    def version(self) -> str:
        """Its number in the registry."""

    @property
    def contract(self) -> Mapping[str, Any]:
        """Its inputs, as training saw them."""

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        """Return the probability of each row of named inputs."""


@dataclass(frozen=True, slots=True)
class Rungs:
    """What can be asked, best first.

    blank   the inputs to gather when there is no model to say: a contract without ranges
    reason  why there is no champion, if there is none
    """

    champion: Scorer | None
    previous: Scorer | None
    rule: Rule | None
    prior: float
    blank: Mapping[str, Any]
    reason: str = "no_champion"


def climb(
    rungs: Rungs,
    rows: Sequence[Mapping[str, Any]],
    vectors: Sequence[OnlineVector],
    calendar: Collection[str] = (),
) -> list[Answer]:
    """Answer each row from the best rung that can; a model is asked once, for all rows together.

    calendar  features that leave the range seen in training by construction, as time goes by
    """
    known = rungs.champion or rungs.previous
    starved = [known is not None and is_starved(known.contract, vector) for vector in vectors]
    waiting = [i for i, gone in enumerate(starved) if not gone]
    answers: dict[int, Answer] = {}
    reason = "ok"
    for name, scorer in (("champion", rungs.champion), ("previous", rungs.previous)):
        if scorer is None or not waiting:
            reason = rungs.reason if name == "champion" and scorer is None else reason
            continue
        inputs = [gather(scorer.contract, rows[i], vectors[i]) for i in waiting]
        scores = _ask(scorer, inputs)
        if scores is None:
            reason = "champion_failed" if reason == "ok" else reason
            continue
        for i, features, score in zip(waiting, inputs, scores, strict=True):
            flags = find_flags(scorer.contract, features, vectors[i], calendar)
            answers[i] = Answer(score, name, reason, scorer.version, flags, features)
        waiting = []
    for i, vector in enumerate(vectors):
        if i not in answers:
            why = "features_unavailable" if starved[i] else reason
            answers[i] = _fall(rungs, rows[i], vector, why, calendar)
    return [answers[i] for i in range(len(rows))]


def is_starved(contract: Mapping[str, Any], vector: OnlineVector) -> bool:
    """Return whether too many of the model's store-backed features have no usable value."""
    stored = [f["name"] for f in contract["features"] if f["source"] != "request"]
    gone = {*vector.missing, *vector.expired}
    lacking = sum(name in gone or name not in vector.values for name in stored)
    return lacking > ENOUGH * len(stored)


def gather(contract: Mapping[str, Any], row: Mapping[str, Any], vector: OnlineVector) -> dict[str, Any]:
    """Return the model's inputs in its order."""
    return {
        f["name"]: row.get(f["name"]) if f["source"] == "request" else vector.values.get(f["name"])
        for f in contract["features"]
    }


def find_flags(
    contract: Mapping[str, Any], features: Mapping[str, Any], vector: OnlineVector, calendar: Collection[str]
) -> tuple[Flag, ...]:
    """Return every input that is missing, expired, unseen in training or outside its range.

    A value that the store holds as null was observed to be null, and is not flagged.
    """
    flags, missing = [], set(vector.missing)
    for feature in contract["features"]:
        name, value, stored = feature["name"], features[feature["name"]], feature["source"] != "request"
        if stored and name in vector.expired:
            flags.append(Flag(name, "expired", round(vector.expired[name], 3)))
        elif (name in missing or name not in vector.values) if stored else value is None:
            flags.append(Flag(name, "missing", None))
        elif value is not None and (kind := _compare(feature, value, calendar)):
            flags.append(Flag(name, kind, value))
    return tuple(flags)


def _compare(feature: Mapping[str, Any], value: Any, calendar: Collection[str]) -> str:
    if feature["kind"] == "category":
        seen = feature.get("categories")
        return "unseen" if seen is not None and value not in seen else ""
    low, high = feature.get("min"), feature.get("max")
    if low is None or high is None or feature["name"] in calendar:
        return ""
    margin = MARGIN * (high - low)
    return "" if low - margin <= value <= high + margin else "out_of_range"


def _ask(scorer: Scorer, inputs: list[dict[str, Any]]) -> list[float] | None:
    try:
        scores = [float(score) for score in scorer.predict(inputs)]
    except Exception:
        log.exception("version %s failed on %d rows", scorer.version, len(inputs))
        return None
    if len(scores) == len(inputs) and all(0 <= score <= 1 for score in scores):
        return scores
    log.error("version %s gave scores that are no probabilities", scorer.version)
    return None


def _fall(
    rungs: Rungs, row: Mapping[str, Any], vector: OnlineVector, reason: str, calendar: Collection[str]
) -> Answer:
    known = rungs.champion or rungs.previous
    contract = known.contract if known else rungs.blank
    features = gather(contract, row, vector)
    flags = find_flags(contract, features, vector, calendar)
    if rungs.rule:
        score = rungs.rule.score({**row, **features})
        return Answer(score, "rule", reason, rungs.rule.version, flags, features)
    return Answer(rungs.prior, "prior", reason, None, flags, features)
