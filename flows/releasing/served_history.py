"""What served when, read off the moves. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flows.releasing.release_state import Moved


def find_served(moves: Sequence[Moved], instant: datetime) -> dict[str, int | None]:
    """Return the version that each alias named at an instant."""
    served: dict[str, int | None] = {"champion": None, "challenger": None}
    for move in moves:
        if datetime.fromisoformat(move.at) <= instant:
            served[move.alias] = move.after
    return served


def list_spells(moves: Sequence[Moved], until: datetime) -> list[dict[str, Any]]:
    """Return each move in words, oldest first, with how long what it set stood."""
    ends = [until] * len(moves)
    following: dict[str, datetime] = {}
    for i in range(len(moves) - 1, -1, -1):
        ends[i] = following.get(moves[i].alias, until)
        following[moves[i].alias] = datetime.fromisoformat(moves[i].at)
    return [
        {
            "at": move.at[:23],
            "alias": move.alias,
            "from": move.before or "none",
            "to": move.after or "none",
            "who": move.who,
            "how": move.how,
            "why": move.reason,
            "took": f"{move.seconds:.2f} s" if move.seconds is not None else "",
            "stood for": str(end - datetime.fromisoformat(move.at)).split(".", maxsplit=1)[0],
        }
        for move, end in zip(moves, ends, strict=True)
    ]
