"""Reads a body into typed items, or says which field of it is wrong, what it held and what it should."""

import re
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

MAX_ITEMS = 1_000
MAX_BYTES = 5 * 1024 * 1024
T = TypeVar("T", bound=msgspec.Struct)


class Malformed(Exception):
    """A request that cannot be answered, with the HTTP status that says so."""

    def __init__(self, status: int, field: str, got: object, expected: str, next_step: str) -> None:
        super().__init__(f"{field}: got {got!r}, expected {expected}")
        self.status = status
        self.error = {"field": field, "got": shorten(got), "expected": expected, "next_step": next_step}


def decode(body: bytes, kind: type[T]) -> tuple[list[T], bool]:
    """Return the items of a JSON body, 1 to 1,000, and whether it held a single one. Raises Malformed."""
    single = body.lstrip()[:1] != b"["
    try:
        decoded = _decoder(kind, single).decode(body)
    except msgspec.ValidationError as error:
        raise _explain(body, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(400, "body", body[:80], f"JSON ({error})", "Send valid JSON.") from None
    items = [decoded] if single else decoded
    if not 1 <= len(items) <= MAX_ITEMS:
        expected = f"1 to {MAX_ITEMS:,} items"
        raise Malformed(422, "body", f"{len(items):,} items", expected, "Split the list.")
    return items, single


def shorten(value: object, most: int = 200) -> object:
    """Return a value fit for an answer or a dead letter: long text is cut."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str | int | float | bool | None) and len(str(value)) <= most:
        return value
    return str(value)[:most]


@lru_cache(maxsize=8)
def _decoder(kind: Any, single: bool) -> Any:
    return msgspec.json.Decoder(kind if single else list[kind])


def _explain(body: bytes, message: str) -> Malformed:
    # msgspec says "Expected `int`, got `str` - at `$[0].flight`": the path leads to the value.
    what, _, path = message.partition(" - at ")
    steps = re.findall(r"\[(\d+|\.\.\.)\]|\.([^.\[`]+)", path)
    value: Any = msgspec.json.decode(body)
    names = []
    for index, name in steps:
        names.append(f"[{index}]" if index else name)
        value = _step(value, index, name)
    missing = re.search(r"missing required field `([^`]+)`", what)
    unknown = re.search(r"contains unknown field `([^`]+)`", what)
    if missing or unknown:
        found = missing or unknown
        assert found is not None
        field = ".".join([*names, found[1]])
        expected = "a value" if missing else "no such field"
        got = "nothing" if missing else "an unknown field"
        step = "Add it." if missing else "Leave it out."
        return Malformed(422, field, got, expected, step)
    expected = what.removeprefix("Expected ").split(", got ")[0]
    return Malformed(422, ".".join(names) or "body", value, expected, "Correct the value.")


def _step(value: Any, index: str, name: str) -> Any:
    try:
        return value[int(index)] if index else value[name]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
