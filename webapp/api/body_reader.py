"""Read what the body of a request asks for. PURE: the same here and in the process that reads large bodies."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from msgspec import Raw

from webapp.api import json_body
from webapp.api.content_encoding import HEADER, coding_of, unpack
from webapp.api.dialects import native, tokenize
from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import dialect_of
from webapp.api.dialects.typos import IgnoredFields
from webapp.domain.errors import InvalidRequestError, RerankError
from webapp.domain.types import RerankRequest

TOKENS_FACTOR = 100
"""Memory of the tokens of a text and of the reply that lists them, in texts of its size."""

What = Literal["rerank", "batch", "tokenize"]
"""What is wanted of a body; see `_READERS`."""


@dataclass(slots=True)
class ParsedBody:
    """What a call asks for, and in which dialect."""

    dialect: str
    requests: list[RerankRequest] = field(default_factory=list)
    nested: bool = False
    """See `Call.nested`."""
    error: RerankError | None = None
    """Why there are no requests."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may hold."""

    body_bytes: int
    """Unpacked."""
    values: int = sys.maxsize
    """Values and names of its JSON."""
    documents: int = sys.maxsize
    """Checked only where the body is read elsewhere: the worker need not see more than it ever takes."""
    batch_requests: int = sys.maxsize
    """Requests of a batch."""


class Reader(Protocol):
    """Reads bodies, on this thread or elsewhere."""

    def __call__(self, what: What, call: Call, deadline: float, client: str = "") -> Any:
        """Return what `read` does, or raise what it raises.

        Args:
            what: what is wanted of the body.
            call: its body as received.
            deadline: monotonic time at which the caller stops waiting.
            client: who asks; where bodies wait, clients take turns.
        """


class InlineReader:
    """A reader on the calling thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(self, what: What, call: Call, deadline: float, client: str = "") -> Any:
        """See `Reader`."""
        del deadline, client
        return read(what, call, self._limits)


def read(what: What, call: Call, limits: Limits) -> Any:
    """Unpack and read a body.

    Args:
        what: what is wanted of it.
        call: its body as received.
        limits: what it may hold.

    Returns:
        `ParsedBody` for "rerank", the requests of a "batch", a `TokenizeBody` with its warnings.

    Raises:
        RerankError: the body of a batch, or one to tokenise, can't be read.
    """
    try:
        if coding := coding_of(call.headers.get(HEADER)):
            call = replace(call, body=unpack(call.body, coding, limits.body_bytes))
        json_body.check_values(call.body, limits.values)
        if call.large:  # else it costs little to do it again, each time that the body is parsed
            with contextlib.suppress(UnicodeDecodeError):  # whoever parses it says so
                call = replace(call, body=json_body.without_surrogates(call.body))
    except RerankError as error:
        if what in {"batch", "tokenize"}:
            raise
        return ParsedBody(dialect_of(replace(call, body=b"")).name, error=error)
    if what == "batch":
        return native.parse_batch(call.body, limits.batch_requests)
    return _READERS[what](call)


def memory_of(answer: Any) -> int:
    """Return the bytes that what was read takes, and what its reply repeats of that."""
    if isinstance(answer, tuple):  # to be tokenised: little, and each token is an object in the reply
        return sum(map(sys.getsizeof, answer[0].texts)) * TOKENS_FACTOR
    requests = answer.requests if isinstance(answer, ParsedBody) else answer
    return sum(_memory_of(each) for each in requests if isinstance(each, RerankRequest))


def _memory_of(request: RerankRequest) -> int:
    texts = sys.getsizeof(request.query) + sum(map(sys.getsizeof, request.documents))
    raw = sum(len(memoryview(each)) for each in request.originals if isinstance(each, Raw))
    return (texts + raw) * (1 + request.return_documents)


def _rerank(call: Call) -> ParsedBody:
    dialect = dialect_of(call)
    try:
        requests = dialect.parse(call)
    except RerankError as error:
        return ParsedBody(dialect.name, error=error)
    except RecursionError:
        return ParsedBody(dialect.name, error=InvalidRequestError("the body is nested too deeply"))
    if ignored := IgnoredFields().warn(call.fields.keys(), dialect.body):
        requests = [replace(each, warnings=each.warnings + ignored) for each in requests]
    return ParsedBody(dialect.name, requests, call.nested)


def _tokenize(call: Call) -> tuple[tokenize.TokenizeBody, tuple[str, ...]]:
    return tokenize.parse(call.body), IgnoredFields().warn(call.fields.keys(), tokenize.TokenizeBody)


_READERS: Mapping[str, Callable[[Call], Any]] = {"rerank": _rerank, "tokenize": _tokenize}
