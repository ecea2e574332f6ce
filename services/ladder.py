"""Who answers: champion, else previous, else the rule, else the prior. Pure; never nothing, never silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from feature_repo.contract import Problem

# A number this much beyond the range seen in training, as a share of the range, is out of it.
MARGIN = 0.1
# With more than this share of its stored features gone, a model was never trained for what it sees.
MOST_GONE = 0.5


class Vector(Protocol):
    """What the feature store says of one request."""

    values: dict[str, float | None]
    missing: tuple[str, ...]
    expired: dict[str, float]


class Rung(Protocol):
    """A model that can answer, with the contract that it was trained under."""

    version: str
    contract: Mapping[str, Any]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the probability for each row of feature values."""


@dataclass(frozen=True)
class Rule:
    """The rate by one feature, as training saw it."""

    by: str
    rates: Mapping[str, float]
    base_rate: float

    def answer(self, values: Mapping[str, Any]) -> float:
        """Return the rate that fits the values."""
        value = values.get(self.by)
        return self.rates.get(str(int(value)), self.base_rate) if value is not None else self.base_rate


@dataclass(frozen=True)
class Rungs:
    """What can answer at one instant."""

    champion: Rung | None = None
    previous: Rung | None = None
    rule: Rule | None = None


@dataclass(frozen=True)
class Answer:
    """One answer: probability, who gave it and why, and what was wrong with the input."""

    score: float
    served_by: str
    reason: str
    model_version: str | None
    features: dict[str, Any]
    flags: dict[str, list[str]] = field(default_factory=dict)


def answer_all(
    rungs: Rungs,
    problem: Problem,
    rows: Sequence[Mapping[str, Any]],
    vectors: Sequence[Vector] | None,
) -> list[Answer]:
    """Answer every row: `rows` hold the request's features, `vectors` the stored ones (None: no store)."""
    inputs = [_assemble(problem, row, vectors[i] if vectors else None) for i, row in enumerate(rows)]
    ladder = [("champion", rungs.champion), ("previous", rungs.previous)]
    present = [(name, rung) for name, rung in ladder if rung is not None]
    answers: list[Answer | None] = [None] * len(rows)
    reasons = ["" if present else "no_model"] * len(rows)
    for name, rung in present:
        if all(answer is not None for answer in answers):
            break
        todo = [i for i, answer in enumerate(answers) if answer is None and not _is_bare(problem, inputs[i])]
        _try_rung(name, rung, todo, inputs, answers, reasons)
    for i, one in enumerate(inputs):
        if answers[i] is None:
            bare = present and _is_bare(problem, one)
            answers[i] = _by_rule(rungs, problem, one, "features_unavailable" if bare else reasons[i])
    return [answer for answer in answers if answer is not None]


@dataclass(frozen=True)
class _Input:
    values: dict[str, Any]
    missing: tuple[str, ...]
    expired: dict[str, float]


def _assemble(problem: Problem, row: Mapping[str, Any], vector: Vector | None) -> _Input:
    stored = [f.name for f in problem.features if f.source != "request"]
    if vector is None:
        values = {f.name: row.get(f.name) if f.source == "request" else None for f in problem.features}
        return _Input(values, tuple(stored), {})
    values = {
        f.name: row.get(f.name) if f.source == "request" else vector.values.get(f.name)
        for f in problem.features
    }
    return _Input(values, vector.missing, vector.expired)


def _is_bare(problem: Problem, one: _Input) -> bool:
    stored = sum(f.source != "request" for f in problem.features)
    return stored > 0 and (len(one.missing) + len(one.expired)) / stored > MOST_GONE


def _try_rung(
    name: str,
    rung: Rung,
    todo: Sequence[int],
    inputs: Sequence[_Input],
    answers: list[Answer | None],
    reasons: list[str],
) -> None:
    if not todo:
        return
    try:
        scores = rung.predict([inputs[i].values for i in todo])
        if not all(0 <= score <= 1 for score in scores):
            raise ValueError("a score outside 0 to 1")
    except Exception as error:  # whatever a model does, the next rung answers and says so
        for i in todo:
            reasons[i] = f"{name}_failed: {type(error).__name__}"
        return
    for i, score in zip(todo, scores, strict=True):
        flags = find_flags(rung.contract, inputs[i])
        answers[i] = Answer(score, name, reasons[i] or "ok", rung.version, inputs[i].values, flags)


def _by_rule(rungs: Rungs, problem: Problem, one: _Input, reason: str) -> Answer:
    contract = rungs.champion.contract if rungs.champion else {"features": []}
    flags = find_flags(contract, one)
    if rungs.rule is None:
        return Answer(problem.prior, "prior", reason or "no_model", None, one.values, flags)
    return Answer(rungs.rule.answer(one.values), "rule", reason, None, one.values, flags)


def find_flags(contract: Mapping[str, Any], one: Any) -> dict[str, list[str]]:
    """Return what deviates from the contract: missing, expired, unseen, out_of_range, by feature name."""
    flags: dict[str, list[str]] = {}
    if one.missing:
        flags["missing"] = list(one.missing)
    if one.expired:
        flags["expired"] = list(one.expired)
    for feature in contract["features"]:
        name, value = feature["name"], one.values.get(feature["name"])
        if value is None:
            if feature["source"] == "request":
                flags.setdefault("missing", []).append(name)
        elif feature["categories"] is not None:
            if value not in feature["categories"]:
                flags.setdefault("unseen", []).append(name)
        elif feature["min"] is not None:
            room = MARGIN * (feature["max"] - feature["min"])
            if not feature["min"] - room <= value <= feature["max"] + room:
                flags.setdefault("out_of_range", []).append(name)
    return flags
