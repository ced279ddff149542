"""Read what the body of a request asks for. PURE: the same here and in the process that reads large bodies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from webapp.api.dialects import native, tokenize
from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import dialect_of
from webapp.api.dialects.typos import IgnoredFields
from webapp.api.encodings import HEADER, coding_of, unpack
from webapp.errors import InvalidRequestError, RerankError
from webapp.types import RerankRequest

What = Literal["rerank", "batch", "tokenize"]
"""What is wanted of a body; see `_READERS`."""


@dataclass(slots=True)
class Asked:
    """What a call asks for, and in which dialect."""

    dialect: str
    requests: list[RerankRequest] = field(default_factory=list)
    nested: bool = False
    """See `Call.nested`."""
    error: RerankError | None = None
    """Why there are no requests."""


class Reader(Protocol):
    """Reads bodies, on this thread or elsewhere."""

    def __call__(self, what: What, call: Call, deadline: float) -> Any:
        """Return what `read` does, or raise what it raises.

        Args:
            what: what is wanted of the body.
            call: its body as received.
            deadline: monotonic time at which the caller stops waiting.
        """


class ReadHere:
    """A reader on the calling thread."""

    def __init__(self, max_body_bytes: int, max_batch_requests: int = sys.maxsize) -> None:
        self._limits = max_body_bytes, max_batch_requests

    def __call__(self, what: What, call: Call, deadline: float) -> Any:
        """See `Reader`."""
        del deadline
        return read(what, call, *self._limits)


def read(what: What, call: Call, max_body_bytes: int, max_batch_requests: int = sys.maxsize) -> Any:
    """Unpack and read a body.

    Args:
        what: what is wanted of it.
        call: its body as received.
        max_body_bytes: most that may come out of a packed body.
        max_batch_requests: most that a batch may hold.

    Returns:
        `Asked` for "rerank", the requests of a "batch", a `TokenizeBody` with its warnings.

    Raises:
        RerankError: the body of a batch, or one to tokenise, can't be read.
    """
    try:
        if coding := coding_of(call.headers.get(HEADER)):
            call = replace(call, body=unpack(call.body, coding, max_body_bytes))
    except RerankError as error:
        if what in {"batch", "tokenize"}:
            raise
        return Asked(dialect_of(replace(call, body=b"")).name, error=error)
    if what == "batch":
        return native.parse_batch(call.body, max_batch_requests)
    return _READERS[what](call)


def _rerank(call: Call) -> Asked:
    dialect = dialect_of(call)
    try:
        requests = dialect.parse(call)
    except RerankError as error:
        return Asked(dialect.name, error=error)
    except RecursionError:
        return Asked(dialect.name, error=InvalidRequestError("the body is nested too deeply"))
    if ignored := IgnoredFields().warn(call.fields.keys(), dialect.body):
        requests = [replace(each, warnings=each.warnings + ignored) for each in requests]
    return Asked(dialect.name, requests, call.nested)


def _tokenize(call: Call) -> tuple[tokenize.TokenizeBody, tuple[str, ...]]:
    return tokenize.parse(call.body), IgnoredFields().warn(call.fields.keys(), tokenize.TokenizeBody)


_READERS: Mapping[str, Callable[[Call], Any]] = {"rerank": _rerank, "tokenize": _tokenize}
