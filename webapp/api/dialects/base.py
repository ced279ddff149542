"""What a dialect is. Adding one is adding a module that defines a `Dialect`, and naming it in `registry`."""

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
"""Where documents are ranked, whatever the dialect."""


SMALL_BYTES = 64 * 1024
FEW_VALUES = 2048
"""A body that is no larger, and holds no more values and names, is read in a few milliseconds, the worst in 30."""

_NULL = msgspec.Raw(b"null")


class Headers(Protocol):
    """Headers of a request, looked up whatever the case of their names."""

    def get(self, name: str, /) -> str | None:
        """One of them."""

    def items(self) -> Iterable[tuple[str, str]]:
        """All of them."""


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
    """The model that the path names, where it does."""
    nested: bool = False
    """Whether the answer is a list of lists, as TEI's /predict has it for several pairs; `parse` knows."""
    decoded: Any = None
    """What a dialect decoded to recognise the call, so that it needn't again."""

    @cached_property
    def charged(self) -> bool:
        """Whether the memory of the body counts: it is large, or packed and may become so."""
        return len(self.body) > SMALL_BYTES or bool(self.headers.get("Content-Encoding"))

    @cached_property
    def large(self) -> bool:
        """Whether to read the body, or to repeat it, may hold up others: it is large, or holds many values."""
        return self.charged or json_body.values_at_most(self.body) > FEW_VALUES

    @cached_property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """The body's fields that are not null, unparsed; none when it is no JSON object."""
        try:
            raw = json_body.decode(self.body, dict[str, msgspec.Raw])
        except InvalidRequestError:
            return {}
        return {name: value for name, value in raw.items() if value != _NULL}  # views into the body, no copies

    def has(self, *names: str) -> bool:
        """Whether any of these fields is there."""
        return not self.fields.keys().isdisjoint(names)


ErrorProfile = Literal["native", "documents", "tei"]
"""Whose statuses an error gets; `webapp.api.errors` has the numbers."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format, as pure functions."""

    name: str
    title: str
    """For the API's description."""
    claims: Callable[[Call], bool]
    """Whether a call speaks it; asked in the order of the registry."""
    parse: Callable[[Call], list[RerankRequest]]
    """What is asked, usually one request. Raises InvalidRequestError, which names the field and what was wrong."""
    dump: Callable[[list[RerankResult], Call], bytes]
    """The answer, JSON."""
    dump_error: Callable[[RerankError, int, str], bytes]
    """An error with its status and the request's id, JSON."""
    manners: ErrorProfile
    body: Any
    """Type of a request, for the API's description."""
    reply: Any
    """Type of an answer, or a tuple of types."""
    error: Any
    paths: tuple[str, ...] = RERANK_PATHS
    example: Mapping[str, Any] = field(default_factory=dict)
