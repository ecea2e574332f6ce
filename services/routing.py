"""Who answers a request: the champion, or the challenger that was given a sticky share of the traffic. Pure.

The share is a hash of the entity, salted with the version: the same thing always gets the same answerer
within a release, another release has other guinea pigs, and a share that grows keeps those that it had.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from feature_repo.freshness import OnlineVector
from services.breaker import Circuits
from services.decoding import BadRequest
from services.ladder import Answer, Rungs, climb

Stage = Literal["shadow", "canary"]
TERMS = "perennial.release"  # tag of a model version: JSON, the terms of its release
HEADER = "X-Perennial-Arm"
PIN = "_arm"  # where a row carries what its request's header asked for
ARMS = ("champion", "challenger")
WHOLE = 1 << 32


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one release.

    stage  "shadow": scored beside the champion, never heard; "canary": answers a share of the traffic
    share  of the entities that a canary answers, over 0 and at most 0.5
    bake   days that it is watched once it is the champion: of 7, labels would leave too few to judge quality
    """

    stage: Stage = "shadow"
    share: float = 0.1
    bake: float = 14.0

    def __post_init__(self) -> None:
        if self.stage not in {"shadow", "canary"}:
            raise ValueError(f"stage {self.stage!r}: neither shadow nor canary")
        if not 0 < self.share <= 0.5:
            raise ValueError(f"share {self.share}: not over 0 and at most 0.5")
        if not (self.bake > 0 and math.isfinite(self.bake)):
            raise ValueError(f"bake time {self.bake}: not a number of days")

    def to_text(self) -> str:
        """Return the terms as their tag holds them."""
        return json.dumps(asdict(self))


def parse_terms(text: str | None) -> Terms:
    """Return the terms of a tag: shadow if there is none. Raises ValueError if it cannot be read."""
    if not text:
        return Terms()
    try:
        told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError(f"terms {text!r}: not an object")
        known: dict[str, Any] = {name: told[name] for name in ("stage", "share", "bake") if name in told}
        for name in known.keys() - {"stage"}:
            known[name] = float(known[name])
    except (OverflowError, RecursionError) as error:  # a number of 400 digits, lists 10,000 deep
        raise ValueError(f"terms {text[:50]!r}: {error}") from error
    return Terms(**known)


def read_pin(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return the arm that a request's header asks for. Raises BadRequest if there is no such arm."""
    wanted = HEADER.lower().encode()
    for name, value in headers:
        if name.lower() == wanted:
            arm = value.decode("latin-1").strip().lower()
            if arm not in ARMS:
                expected, step = " or ".join(ARMS), "Correct the header, or leave it away."
                raise BadRequest(400, HEADER, got=arm[:50], expected=expected, next_step=step)
            return arm
    return None


def falls_to_challenger(entity: str, version: str, share: float) -> bool:
    """Return whether an entity is among the challenger's share."""
    digest = hashlib.blake2b(f"{version}/{entity}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * WHOLE


def pick_challenged(rows: Sequence[Mapping[str, Any]], entity: str, version: str, share: float) -> list[int]:
    """Return the places of the rows that the challenger is to answer."""
    return [
        i
        for i, row in enumerate(rows)
        if row.get(PIN) == "challenger"
        or (PIN not in row and falls_to_challenger(str(row[entity]), version, share))
    ]


def climb_arms(
    rungs: Rungs,
    rows: Sequence[Mapping[str, Any]],
    vectors: Sequence[OnlineVector],
    entity: str,
    calendar: Collection[str] = (),
    circuits: Circuits | None = None,
) -> list[Answer]:
    """Answer each row from its arm; what the challenger cannot answer, the champion's ladder does.

    The reason tells the arm: "ok" as the hash says, "pinned" as the header says, "no_canary" if it asked for
    a challenger and there is none, "challenger_..." if the challenger had its turn first.
    """
    circuits, challenger = circuits or Circuits(), rungs.canary
    if challenger is None:
        return _mark_pinned(climb(rungs, rows, vectors, calendar, circuits), rows, canary=False)
    places = pick_challenged(rows, entity, challenger.version, rungs.share)
    alone = replace(rungs, champion=challenger, previous=None, rule=None)
    tried = climb(alone, *_pick(places, rows, vectors), calendar, circuits) if places else []
    first = {i: answer for i, answer in zip(places, tried, strict=True) if answer.model_version is not None}
    rest = [i for i in range(len(rows)) if i not in first]
    told = climb(rungs, *_pick(rest, rows, vectors), calendar, circuits) if rest else []
    failed = {i: answer.reason for i, answer in zip(places, tried, strict=True) if i not in first}
    for i, answer in zip(rest, told, strict=True):
        why = failed.get(i, "").replace("champion_", "challenger_", 1)
        first[i] = answer._replace(reason=why) if why and answer.reason == "ok" else answer
    for i, answer in zip(places, tried, strict=True):
        if answer.model_version is not None:
            first[i] = answer._replace(served_by="challenger")
    return _mark_pinned([first[i] for i in range(len(rows))], rows, canary=True)


def _pick(
    places: Sequence[int], rows: Sequence[Mapping[str, Any]], vectors: Sequence[OnlineVector]
) -> tuple[list[Mapping[str, Any]], list[OnlineVector]]:
    return [rows[i] for i in places], [vectors[i] for i in places]


def _mark_pinned(answers: list[Answer], rows: Sequence[Mapping[str, Any]], *, canary: bool) -> list[Answer]:
    if not any(PIN in row for row in rows):
        return answers
    marked = []
    for answer, row in zip(answers, rows, strict=True):
        if PIN in row and answer.reason == "ok":
            answer = answer._replace(  # noqa: PLW2901
                reason="pinned" if canary or row[PIN] == "champion" else "no_canary"
            )
        marked.append(answer)
    return marked
