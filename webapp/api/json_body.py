"""Bytes -> checked values, with errors that name the place. Pure."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from webapp.errors import InvalidRequestError

T = TypeVar("T")

_ENCODED_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""Half of a pair of escapes, in a text without escaped backslashes."""
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
        return _decode(body, shape, strict=strict)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not body.strip():
            raise InvalidRequestError("the body is empty; send a JSON object") from error
        try:
            return _decode(without_surrogates(body), shape, strict=strict)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"the body is not JSON: {_reason(error)}") from error


def _decode(body: bytes, shape: type[T], *, strict: bool) -> T:
    try:
        if not body.isascii():
            body.decode()  # msgspec looks into no text that it skips
        return msgspec.json.decode(body, type=shape, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply") from error


def _reason(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def encode(reply: Any, *, long: bool) -> bytes:
    """Encode a reply; the entries of a long one by themselves, for between two of them other threads get their turn.

    Args:
        reply: a struct that holds lists, or a list.
        long: whether its entries hold texts.
    """
    if not long:
        return msgspec.json.encode(reply)
    if isinstance(reply, list):
        return msgspec.json.encode([Raw(msgspec.json.encode(entry)) for entry in reply])
    lists = {name: value for name in reply.__struct_fields__ if isinstance(value := getattr(reply, name), list)}
    apart = {id(value): [Raw(msgspec.json.encode(entry)) for entry in value] for value in lists.values()}
    return msgspec.json.encode(replace(reply, **{name: apart[id(value)] for name, value in lists.items()}))


def without_surrogates(body: bytes) -> bytes:
    """Replace halves of surrogate pairs by U+FFFD; everything else stays as it was written.

    A text that is cut in the middle ends in one, and no tokenizer and no encoder takes it.
    """
    if b"\0" in body:
        return body  # no JSON, and below it stands for what is JSON
    whole = _ENCODED_SURROGATE.sub("\ufffd".encode(), body)
    without_backslashes = whole.replace(rb"\\", b"\0\0")
    return _LONE_SURROGATE.sub(rb"\\ufffd", without_backslashes).replace(b"\0\0", rb"\\")


def _invalid(error: msgspec.ValidationError) -> InvalidRequestError:
    """Msgspec's message in our words: "Expected `str`, got `int` - at `$.documents[0]`" names type and place."""
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
