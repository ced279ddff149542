"""What a dialect is: pure functions that read the calls of one wire format, and write its replies and errors.

docs/howto.md has the steps to add one. Routes, `GET /`, OpenAPI, the checks of a deployment and `scripts/smoke` read
the registry; no other module has to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import msgspec

from webapp.api import json_body
from webapp.domain.errors import InvalidRequestError, RerankError
from webapp.domain.types import RerankRequest, RerankResult

RERANK_PATHS = (
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/reranking",
    "/v1/reranking",
    "/api/rerank",
    "/infinity/rerank",
    "/",
    "/invocations",
)
"""Paths that rank documents, whatever the dialect."""


SMALL_BYTES = 64 * 1024
FEW_VALUES = 2048
"""A body up to this size, with up to this many values and names, is read in a few milliseconds, the worst in 30."""

_NULL = msgspec.Raw(b"null")


class Headers(Protocol):
    """Headers of a request, looked up whatever the case of their names."""

    def get(self, name: str, /) -> str | None:
        """Return the value of one header."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return all names and values."""


@dataclass(eq=False)
class Call:
    """An HTTP request as dialects see it."""

    path: str
    headers: Headers
    body: bytes
    request_id: str = ""
    created_s: int = 0
    """Unix time."""
    model_url: str | None = None
    """The model that the path names, if it names one."""
    nested: bool = False
    """Whether the reply is a list of lists, as TEI's /predict answers several pairs; `to_requests` sets it."""
    decoded: Any = None
    """The body, where a dialect decoded it to recognise the call as its own, so that it is decoded once."""

    @cached_property
    def charged(self) -> bool:
        """Whether the memory of the body counts: it is large, or packed and may become so."""
        return len(self.body) > SMALL_BYTES or bool(self.headers.get("Content-Encoding"))

    @cached_property
    def large(self) -> bool:
        """Whether reading or echoing the body may delay other requests: it is large, or holds many values."""
        return self.charged or (len(self.body) >= FEW_VALUES and json_body.values_at_most(self.body) > FEW_VALUES)

    @cached_property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """The body's fields that are not null, unparsed; none when it is no JSON object."""
        try:
            raw = json_body.decode(self.body, dict[str, msgspec.Raw])
        except InvalidRequestError:
            return {}
        return {name: value for name, value in raw.items() if value != _NULL}  # views into the body, no copies

    def has(self, *names: str) -> bool:
        """Return whether any of these fields is there."""
        return not self.fields.keys().isdisjoint(names)


ErrorProfile = Literal["native", "documents", "tei"]
"""A set of HTTP statuses for errors; `webapp.api.errors` has the numbers."""


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How a dialect writes errors."""

    profile: ErrorProfile
    dump: Callable[[RerankError, int, str], bytes]
    """Return the body, JSON, for an error, its HTTP status and the request's id."""
    body: Any
    """Type of the body, for the API's description."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format, as pure functions."""

    name: str
    """Shown in logs, metrics and events."""
    title: str
    """Text of the API's description."""
    claims: Callable[[Call], bool]
    """Return whether a call speaks it; called in the order of the registry. Must not raise."""
    to_requests: Callable[[Any, Call], list[RerankRequest]]
    """Return what a decoded body asks for, usually one request. Raises InvalidRequestError that names the field."""
    to_reply: Callable[[list[RerankResult], Call], Any]
    """Return the reply, of type `reply`, for the results of all requests of a call."""
    errors: ErrorFormat
    body: Any
    """Type of a request; every other body is refused, but unknown fields are ignored with a warning if mistyped."""
    reply: Any
    """Type of a reply, or a tuple of types."""
    paths: tuple[str, ...] = RERANK_PATHS
    """Paths that take this format; a path that no other dialect has becomes a route."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """A body; deployments send it at the first path where it is claimed, `scripts/smoke` at a path of its own."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that the example needs, because paths and bodies are the same as another dialect's."""
    strict: bool = False
    """Whether "true", "3" and the like are refused where a boolean or a number is due."""

    def parse(self, call: Call) -> list[RerankRequest]:
        """Read the body of a call.

        Raises:
            InvalidRequestError: names the field and what is wrong.
        """
        body = call.decoded
        if body is None:
            body = json_body.decode(call.body, self.body, strict=self.strict)
        return self.to_requests(body, call)

    def dump(self, results: list[RerankResult], call: Call) -> bytes:
        """Write the reply, JSON, for the results of all requests of a call."""
        long = call.large and any(result.request.return_documents for result in results)
        return json_body.encode(self.to_reply(results, call), long=long)
