"""From bytes to checked items: what is wrong is named by field, value and expectation."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec

MAX_ITEMS = 1_000
SHOWN = 200  # characters of a refused value that are told back

Item = TypeVar("Item")


class BadRequest(Exception):
    """A request that cannot be answered, and what to change about it."""

    def __init__(self, status: int, field: str, *, got: object, expected: str, next_step: str) -> None:
        super().__init__(f"{field}: got {got}, expected {expected}. {next_step}")
        self.status = status
        self.field = field
        self.got = got
        self.expected = expected
        self.next_step = next_step

    def to_body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        told = {"field": self.field, "got": self.got, "expected": self.expected, "next_step": self.next_step}
        return {"error": told}


class Decoder(Generic[Item]):
    """Reads one item of a type, or a list of 1 to MAX_ITEMS of it."""

    def __init__(self, kind: type[Item]) -> None:
        many = Annotated[list[kind], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]  # type: ignore[valid-type]
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind | many).decode
        self._names = [field.encode_name for field in msgspec.structs.fields(kind)]  # type: ignore[arg-type]

    def read(self, body: bytes) -> tuple[list[Item], bool]:
        """Return the items, and whether a single one was sent. Raises BadRequest."""
        try:
            told = self._decode(body)
        except (msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
            raise self._explain(body, error) from None
        except msgspec.DecodeError as error:
            raise _refuse_text(body, str(error)) from None
        return (told, False) if isinstance(told, list) else ([told], True)

    def _explain(self, body: bytes, error: Exception) -> BadRequest:
        """Find the value that the error is about; slow, and only ever run on refused requests."""
        try:
            raw = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as worse:
            return _refuse_text(body, str(worse))
        if isinstance(raw, list) and not 1 <= len(raw) <= MAX_ITEMS:
            count = f"1 to {MAX_ITEMS:,} items"
            return _refuse("items", f"{len(raw):,} items", count, "Split or fill the list.")
        message, _, place = str(error).partition(" - at `")
        return self._name_field(raw, message, place.rstrip("`").removeprefix("$").lstrip("."))

    def _name_field(self, raw: Any, message: str, path: str) -> BadRequest:
        def below(name: str) -> str:
            return f"{path}.{name}" if path else name

        if found := re.match(r"Object missing required field `(.+)`", message):
            return _refuse(below(found[1]), "nothing", "a value", "Add the field; /docs shows an example.")
        if found := re.match(r"Object contains unknown field `(.*)`", message, re.DOTALL):
            known = f"one of {', '.join(self._names)}"
            name = below(found[1][:SHOWN]) or '""'  # a field may be named nothing
            return _refuse(name, "a field of that name", known, "Leave it out or correct its name.")
        if found := re.match(r"(\w+): expected (.+)", message):  # raised by the type's own checks
            got = _walk(raw, below(found[1]))
            return _refuse(below(found[1]), got, found[2], "Correct the value.")
        expected = re.sub(r"^Expected |, got `\w+`$|`", "", message)
        return _refuse(path or "body", _walk(raw, path), expected, "Correct the value.")


def _refuse(field: str, got: object, expected: str, next_step: str) -> BadRequest:
    return BadRequest(422, field, got=got, expected=expected, next_step=next_step)


def _refuse_text(body: bytes, problem: str) -> BadRequest:
    got = f"{problem}: {body[:SHOWN].decode('utf-8', 'replace')}"
    return BadRequest(400, "body", got=got, expected="JSON text in UTF-8", next_step="Send valid JSON.")


def _walk(raw: Any, path: str) -> object:
    """Return the value at a path such as `[3].distance`, cut to what can be shown."""
    value = raw
    for index, name in re.findall(r"\[(\d+)\]|([^.\[\]]+)", path):
        try:
            value = value[int(index)] if index else value[name]
        except (LookupError, TypeError):
            return "nothing"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:SHOWN]
    return msgspec.json.encode(value)[:SHOWN].decode("utf-8", "replace")
