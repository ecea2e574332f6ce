"""Who answers a request: the champion, or the challenger that was given a sticky share of the traffic. Pure.

The share is a hash of the entity, salted with the version: the same thing always gets the same answerer
within a release, another release has other guinea pigs, and a share that grows keeps those that it had.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from services.decoding import BadRequest

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
    bake   days that it is watched once it is the champion
    """

    stage: Stage = "shadow"
    share: float = 0.1
    bake: float = 7.0

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
    told = json.loads(text)
    if not isinstance(told, dict):
        raise ValueError(f"terms {text!r}: not an object")
    known = {name: told[name] for name in ("stage", "share", "bake") if name in told}
    return Terms(**{**known, **{name: float(known[name]) for name in ("share", "bake") if name in known}})


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


def pick_challenged(
    rows: Sequence[Mapping[str, Any]], entity: str, version: str, share: float
) -> list[int]:
    """Return the places of the rows that the challenger is to answer."""
    return [
        i
        for i, row in enumerate(rows)
        if row.get(PIN) == "challenger"
        or (PIN not in row and falls_to_challenger(str(row[entity]), version, share))
    ]
