"""Read the body of a request. PURE: the same in the worker and in the process that reads large bodies."""

from __future__ import annotations

import contextlib
import sys
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
"""Memory of the tokens of a text and of the reply that lists them, in multiples of the text's size."""

BodyKind = Literal["rerank", "batch", "tokenize"]
"""What a body is read as."""


@dataclass(slots=True)
class ParsedBody:
    """The requests of a call, and its dialect."""

    dialect: str
    requests: list[RerankRequest | RerankError] = field(default_factory=list)
    """An error is in the place of a bad request of a batch."""
    nested: bool = False
    """See `Call.nested`."""
    error: RerankError | None = None
    """Why there are no requests."""

    @property
    def good(self) -> list[RerankRequest]:
        """The requests that can be scored."""
        return [each for each in self.requests if isinstance(each, RerankRequest)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may hold."""

    body_bytes: int
    """Unpacked."""
    values: int = sys.maxsize
    """Values and names of its JSON."""
    documents: int = sys.maxsize
    """Checked only in the other process: the worker need not receive more than it ever takes."""
    batch_requests: int = sys.maxsize
    """Requests of a batch."""


class Reader(Protocol):
    """Reads bodies, on this thread or in another process."""

    def __call__(self, kind: BodyKind, call: Call, deadline: float, client: str = "") -> Any:
        """Return what `read` returns, or raise what it raises.

        Args:
            kind: what the body is read as.
            call: its body as received.
            deadline: monotonic time at which the caller stops waiting.
            client: the caller; where bodies wait, clients take turns.
        """


def read(kind: BodyKind, call: Call, limits: Limits) -> Any:
    """Unpack and read a body.

    Args:
        kind: what it is read as.
        call: its body as received.
        limits: what it may hold.

    Returns:
        `ParsedBody` for "rerank" and "batch"; `TokenizeBody` and warnings for "tokenize".

    Raises:
        RerankError: a body to tokenise can't be read.
    """
    try:
        if coding := coding_of(call.headers.get(HEADER)):
            call = replace(call, body=unpack(call.body, coding, limits.body_bytes))
        json_body.check_values(call.body, limits.values)
        if call.large:  # else it costs little to do it again, each time that the body is parsed
            with contextlib.suppress(UnicodeDecodeError):  # the parser will report it
                call = replace(call, body=json_body.without_surrogates(call.body))
    except RerankError as error:
        if kind == "tokenize":
            raise
        return ParsedBody(dialect_of(replace(call, body=b"")).name, error=error)
    return _tokenize(call) if kind == "tokenize" else _rerank(call, limits, batch=kind == "batch")


def memory_of(answer: Any) -> int:
    """Return the bytes of memory that the result of `read` takes, with the parts that its reply repeats."""
    if isinstance(answer, tuple):  # texts to tokenise: little, but each token is an object in the reply
        return sum(map(sys.getsizeof, answer[0].texts)) * TOKENS_FACTOR
    return sum(map(_memory_of, answer.good))


def _memory_of(request: RerankRequest) -> int:
    texts = sum(map(sys.getsizeof, (request.query, request.instruction, *request.documents)))
    raw = sum(len(memoryview(each)) for each in request.originals if isinstance(each, Raw))
    return (texts + raw) * (1 + request.return_documents)


def _rerank(call: Call, limits: Limits, *, batch: bool) -> ParsedBody:
    dialect = dialect_of(call)
    try:
        if batch:
            return ParsedBody(dialect.name, native.parse_batch(call.body, limits.batch_requests))
        requests = dialect.parse(call)
    except RerankError as error:
        return ParsedBody(dialect.name, error=error)
    except RecursionError:
        return ParsedBody(dialect.name, error=InvalidRequestError("the body is nested too deeply"))
    if ignored := IgnoredFields().warn(call.fields.keys(), dialect.body):
        requests = [replace(each, warnings=each.warnings + ignored) for each in requests]
    return ParsedBody(dialect.name, [*requests], call.nested)


def _tokenize(call: Call) -> tuple[tokenize.TokenizeBody, tuple[str, ...]]:
    return tokenize.parse(call.body), IgnoredFields().warn(call.fields.keys(), tokenize.TokenizeBody)
