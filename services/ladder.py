"""Which rung answers: champion, else previous, else the rule, else the prior. Pure.

Reasons, all there are:

ok                       the champion answered
no_champion              nothing is the champion
champion_refused         the version that the alias names did not pass its checks
champion_unreachable     the version that the alias names could not be fetched or loaded yet; asked for again
champion_failed          the champion raised, or its scores were no probabilities, now or a moment ago
champion_late            the champion missed its deadline, now or a moment ago
features_unavailable     more than half of the store-backed features are missing or expired
request_features_failed  the request-time features could not be computed
overloaded               more waits than can be answered in time: no model is asked
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from feature_repo.freshness import OnlineVector
from services.breaker import Circuits, Resting
from services.inputs import Flag, Inputs

REASONS = (
    *("ok", "no_champion", "champion_refused", "champion_unreachable", "champion_failed", "champion_late"),
    *("features_unavailable", "request_features_failed", "overloaded"),
)

__all__ = ["Answer", "Flag", "Inputs", "Rule", "Rungs", "Scorer", "climb", "fall", "is_probability"]

log = logging.getLogger("perennial.ladder")


class Answer(NamedTuple):
    """A score, and where it came from; `features` are the exact values used."""

    score: float
    served_by: str
    reason: str
    model_version: str | None
    flags: tuple[Flag, ...]
    features: dict[str, Any]
    told: str  # these as JSON


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
    def inputs(self) -> Inputs:
        """Its inputs, as training saw them."""

    def predict(
        self, rows: Sequence[Mapping[str, Any]], vectors: Sequence[OnlineVector] = ()
    ) -> Sequence[float]:
        """Return the probability of each row of named inputs, gathered of these vectors."""


@dataclass(frozen=True, slots=True)
class Rungs:
    """What can be asked, best first.

    blank    the inputs to gather when there is no model to say: a contract without ranges
    reason   why there is no champion, if there is none
    without  names of circuits that are not to be called: the rows hang in them already
    canary   the challenger, if it answers a share of the traffic, and that share: see routing.py
    """

    champion: Scorer | None
    previous: Scorer | None
    rule: Rule | None
    prior: float
    blank: Inputs
    reason: str = "no_champion"
    without: Collection[str] = ()
    canary: Scorer | None = None
    share: float = 0.0

    @property
    def inputs(self) -> Inputs:
        """The inputs of the best model there is."""
        known = self.champion or self.previous
        return known.inputs if known else self.blank


def climb(
    rungs: Rungs,
    rows: Sequence[Mapping[str, Any]],
    vectors: Sequence[OnlineVector],
    calendar: Collection[str] = (),
    circuits: Circuits | None = None,
) -> list[Answer]:
    """Answer each row from the best rung that can; a model is asked once, for all rows together.

    calendar  features that leave the range seen in training by construction, as time goes by
    circuits  the breakers that the models are asked through
    """
    circuits = circuits or Circuits()
    inputs = rungs.inputs
    no_model = rungs.champion is None and rungs.previous is None
    starved = [not no_model and inputs.is_starved(vector) for vector in vectors]
    waiting = [i for i, gone in enumerate(starved) if not gone]
    answers: list[Answer | None] = [None] * len(rows)
    reason = "ok"
    for name, scorer in (("champion", rungs.champion), ("previous", rungs.previous)):
        if scorer is None or not waiting:
            reason = rungs.reason if name == "champion" and scorer is None else reason
            continue
        inputs, asked = scorer.inputs, [vectors[i] for i in waiting]
        taken = inputs.take([rows[i] for i in waiting], asked, calendar)
        gathered = [one.features for one in taken]
        scores, trouble = _ask(scorer, gathered, asked, circuits, rungs.without)
        for i, score, (features, flags, told) in zip(waiting, scores, taken, strict=True):
            if score is not None:
                answers[i] = Answer(score, name, reason, scorer.version, flags, features, told)
        waiting = [i for i in waiting if answers[i] is None]
        if waiting and reason == "ok":
            reason = f"champion_{trouble}"
    return [
        answer or fall(rungs, row, vector, "features_unavailable" if gone else reason, calendar)
        for answer, row, vector, gone in zip(answers, rows, vectors, starved, strict=True)
    ]


def fall(
    rungs: Rungs, row: Mapping[str, Any], vector: OnlineVector, reason: str, calendar: Collection[str] | None
) -> Answer:
    """Answer a row without a model: by the rule, else the prior. Without a calendar nothing is flagged."""
    inputs = rungs.inputs
    features = inputs.gather(row, vector)
    flags = () if calendar is None else inputs.find_flags(features, vector, calendar)
    told = inputs.tell(features, vector)
    if rungs.rule:
        score = rungs.rule.score({**row, **features})
        return Answer(score, "rule", reason, rungs.rule.version, flags, features, told)
    return Answer(rungs.prior, "prior", reason, None, flags, features, told)


def _ask(
    scorer: Scorer,
    rows: list[dict[str, Any]],
    vectors: Sequence[OnlineVector],
    circuits: Circuits,
    without: Collection[str],
) -> tuple[list[float | None], str]:
    """Return each row's score, None where there is none, and what the trouble was."""
    try:
        name = f"version {scorer.version}"
        return list(circuits.call(name, lambda: _score(scorer, rows, vectors), without)), "failed"
    except Resting as resting:
        return [None] * len(rows), resting.cause
    except Exception:
        log.exception("version %s failed on %d rows", scorer.version, len(rows))
        return [None] * len(rows), "failed"


def _score(scorer: Scorer, rows: list[dict[str, Any]], vectors: Sequence[OnlineVector]) -> list[float | None]:
    try:
        return list(_predict(scorer, rows, vectors))
    except Exception:
        if len(rows) == 1:
            raise
        log.exception("version %s failed on %d rows; each is asked alone", scorer.version, len(rows))
    found = [_score_alone(scorer, *one) for one in zip(rows, vectors, strict=True)]
    if not any(score is not None for score in found):
        raise ValueError(f"no score for any of {len(rows)} rows")
    return found


def _score_alone(scorer: Scorer, row: dict[str, Any], vector: OnlineVector) -> float | None:
    try:
        return _predict(scorer, [row], [vector])[0]
    except Exception as error:  # noqa: BLE001 - logged with the group
        log.warning("version %s failed on a row: %s", scorer.version, error)
        return None


def _predict(scorer: Scorer, rows: list[dict[str, Any]], vectors: Sequence[OnlineVector]) -> list[float]:
    scores = [float(score) for score in scorer.predict(rows, vectors)]
    if len(scores) != len(rows) or not all(map(is_probability, scores)):
        raise ValueError(f"scores that are no probabilities: {scores[:3]}")
    return scores


def is_probability(score: float) -> bool:
    """Return whether a score may be told: within [0, 1], and a number at all."""
    return 0 <= score <= 1
