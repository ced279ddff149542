"""JSON bytes -> checked values, with errors that name the field. PURE."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from webapp.domain.concurrency import LONG_CHARS
from webapp.domain.errors import InvalidRequestError, PayloadTooLargeError

T = TypeVar("T")

_ENCODED_SURROGATES = re.compile(rb"(?:\xed[\xa0-\xbf][\x80-\xbf]){1,99}")
_LONE_SURROGATES = re.compile(
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])){1,99}"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}){1,99}"
)
"""Halves of surrogate pairs, as escapes, in a text without escaped backslashes."""
_NO_BOUNDS = bytes(set(range(256)) - set(b",:[{"))
_NO_MARKS = bytes(set(_NO_BOUNDS) - set(b'"'))
_UTF8 = codecs.getincrementaldecoder("utf-8")
_STEP_BYTES = 64 * 1024
_HOLE = b"\0"
"""A byte that no JSON holds: in a text it is escaped."""
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<field>.*)`)?", re.DOTALL)
_TYPE_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "object": "an object",
    "array": "a list",
    "null": "null",
}


def decode(body: bytes, shape: type[T], *, strict: bool = True) -> T:
    """Parse and check a JSON body in one pass, whatever its Content-Type. `Raw` parts are checked to be JSON, too.

    Args:
        body: as received, or a part of it.
        shape: what it must be.
        strict: False takes "true", "3" and "null" where a boolean, a number or null is due, as ragflow sends them.

    Raises:
        InvalidRequestError: the body is no JSON, or not of this shape; names the field and what was wrong.
    """
    try:
        return msgspec.json.decode(without_surrogates(body), type=shape, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.strip():
            raise InvalidRequestError("the body is empty; send a JSON object") from error
        problem = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequestError(f"the body is not JSON: {problem}") from error


def check_values(body: bytes, most: int) -> None:
    """Refuse a body of too many values before any of them is parsed.

    Args:
        body: JSON, unpacked.
        most: most values and names that it may hold.

    Raises:
        PayloadTooLargeError: it holds more.
    """
    if len(body) < most:  # each takes a byte
        return
    if values_at_most(body) > most and (found := _values_in(body)) > most:
        raise too_large(f"the body holds {found} values and names, this service takes {most} at a time", most)


def too_large(message: str, limit: int) -> PayloadTooLargeError:
    """Return the refusal of a body that holds more than `limit` of something."""
    return PayloadTooLargeError(f"{message}; divide it", figures={"limit": limit}, reason="too_large")


def values_at_most(body: bytes) -> int:
    """Return an upper bound of the values and names of a JSON body, much faster than parsing it."""
    steps = range(0, len(body), _STEP_BYTES)  # so that a large body is not copied whole
    return 1 + sum(len(body[start : start + _STEP_BYTES].translate(None, _NO_BOUNDS)) for start in steps)


def _values_in(body: bytes) -> int:
    """Count the values and names of a JSON body; marks inside of texts don't count."""
    marks = body.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_MARKS)
    count, inside = 1, 0
    for start in range(0, len(marks), _STEP_BYTES):
        parts = marks[start : start + _STEP_BYTES].split(b'"')
        count += sum(map(len, parts[inside::2]))
        inside = (inside + len(parts) - 1) % 2
    return count


def encode(reply: Any, *, long: bool) -> bytes:
    """Encode a reply.

    Args:
        reply: a struct, or a list of structs.
        long: whether it may be large: then it is encoded in pieces, for between two of them other threads get their
            turn, at twenty times the cost for many short texts.
    """
    return b"".join(_pieces(reply)) if long else msgspec.json.encode(reply)


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    """Encode a value piece by piece."""
    if isinstance(value, str) and len(value) > LONG_CHARS:
        yield b'"'
        for start in range(0, len(value), LONG_CHARS):
            yield msgspec.json.encode(value[start : start + LONG_CHARS])[1:-1]
        yield b'"'
    elif isinstance(value, Raw):
        yield memoryview(value)
    else:
        apart: list[Any] = []
        around = msgspec.json.encode(_without(value, apart)).split(_HOLE)
        yield around[0]
        for each, after in zip(apart, around[1:], strict=True):
            yield from _pieces(each)
            yield after


def _without(value: Any, apart: list[Any]) -> Any:
    """Return a value with holes for its long texts and its structs in lists, which are added to `apart`, in order."""
    if isinstance(value, dict):
        return {name: _without(part, apart) for name, part in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], Struct):
        apart += value
        return [Raw(_HOLE)] * len(value)
    if isinstance(value, Struct):
        return replace(value, **{name: _without(getattr(value, name), apart) for name in value.__struct_fields__})
    if isinstance(value, str | Raw) and len(value if isinstance(value, str) else memoryview(value)) > LONG_CHARS:
        apart.append(value)
        return Raw(_HOLE)
    return value


def without_surrogates(body: bytes) -> bytes:
    """Replace halves of surrogate pairs by U+FFFD; everything else stays as it was written.

    A text that is cut in the middle ends in one, and no tokenizer and no encoder takes it.

    Raises:
        UnicodeDecodeError: the body is no UTF-8. msgspec would not see it in a text that it skips.
    """
    try:
        _check_utf8(body)
    except UnicodeDecodeError:
        body = _ENCODED_SURROGATES.sub(lambda half: "\ufffd".encode() * (len(half[0]) // 3), body)
        _check_utf8(body)
    if not (rb"\ud" in body or rb"\uD" in body):
        return body
    if b"\0" in body:
        return body  # no JSON, and below it stands for what is JSON
    changed: bytearray | None = None
    for half in _LONE_SURROGATES.finditer(body.replace(rb"\\", b"\0\0")):
        changed = bytearray(body) if changed is None else changed
        changed[half.start() : half.end()] = rb"\ufffd" * (len(half[0]) // 6)
    return body if changed is None else bytes(changed)


def _check_utf8(body: bytes) -> None:
    """Decode a body in steps: in one, a single emoji would make four bytes of each character.

    Raises:
        UnicodeDecodeError: it is no UTF-8.
    """
    if body.isascii():
        return
    decoder = _UTF8()
    for end in range(_STEP_BYTES, len(body) + _STEP_BYTES, _STEP_BYTES):
        try:
            decoder.decode(body[end - _STEP_BYTES : end], end >= len(body))
        except UnicodeDecodeError as error:
            before = min(end, len(body)) - len(error.object)
            raise UnicodeDecodeError("utf-8", body, before + error.start, before + error.end, error.reason) from None


def _invalid(error: msgspec.ValidationError) -> InvalidRequestError:
    """Translate msgspec's message, such as "Expected `str`, got `int` - at `$.documents[0]`"."""
    match = _PLACE.fullmatch(str(error))
    problem, field = (match["problem"], match["field"]) if match else (str(error), None)
    if missing := re.fullmatch(r"Object missing required field `(.+)`", problem):
        field = f"{field}.{missing[1]}" if field else missing[1]
        return InvalidRequestError("is required", field=field)
    if wrong := re.fullmatch(r"Expected `(.+)`, got `(.+)`", problem):
        expected = " or ".join(_TYPE_NAMES.get(name, name) for name in wrong[1].split(" | ") if name != "null")
        problem = f"must be {expected}, not {_TYPE_NAMES.get(wrong[2], wrong[2])}"
    else:
        problem = problem[:1].lower() + problem[1:].replace("`", "")
    return InvalidRequestError(problem, field=field or None)
