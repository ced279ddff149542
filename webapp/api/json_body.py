"""Bytes -> checked values, with errors that name the place. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from webapp.errors import InvalidRequestError

T = TypeVar("T")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
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
    """Parse and check a JSON body in one pass, whatever its Content-Type.

    Args:
        body: as received.
        shape: what it must be.
        strict: False takes "true", "3" and "null" where a boolean, a number or null is due, as ragflow sends them.

    Raises:
        InvalidRequestError: the body is no JSON, or not of this shape; names the field and what was wrong.
    """
    try:
        return msgspec.json.decode(body, type=shape, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return convert(_decode_leniently(body), shape, strict=strict)


def convert(value: Any, shape: type[T], *, strict: bool = True) -> T:
    """Check an already parsed value; raises as `decode` does."""
    try:
        return msgspec.convert(value, shape, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def _decode_leniently(body: bytes) -> Any:
    """Parse what a strict parser refuses though users send it: lone surrogates, as from a text cut in the middle."""
    if not body.strip():
        raise InvalidRequestError("the body is empty; send a JSON object")
    try:
        return _without_surrogates(json.loads(body.decode("utf-8", "surrogatepass"), parse_constant=_refuse_constant))
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _without_surrogates(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no encoder and no tokenizer takes, by U+FFFD."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(entry) for key, entry in value.items()}
    return value


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
