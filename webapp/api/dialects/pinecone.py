"""Pinecone: objects in, `data` with `score` and the objects out, `return_documents` by default.

Source: pinecone-api 2025-10 (inference OpenAPI), pinecone 10.2.0 `client/inference.py`. Recognised by its headers:
its own `X-Pinecone-Api-Version`, or a key in `Api-Key` at its own path.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api.dialects import documents
from webapp.api.dialects.base import Call, Dialect, ErrorFormat
from webapp.api.dialects.reply_parts import as_object, listed, model, units
from webapp.api.dialects.request_parts import Count, Options, Text, ranking_request
from webapp.domain.errors import RerankError
from webapp.domain.types import RerankRequest, RerankResult


class PineconeBody(Options, kw_only=True, frozen=True):
    """A request with Pinecone's headers."""

    query: Text
    documents: Text | list[Text]
    rank_fields: Annotated[list[str] | None, Meta(description='Fields that are scored. Default ["text"].')] = None
    top_n: Annotated[Count | None, Meta(description="How many to return; absent, null or 0: all.")] = None
    return_documents: Annotated[bool | None, Meta(description="Echo the documents. Default true.")] = None
    parameters: Annotated[dict[str, Any] | None, Meta(description='{"truncate": "END" or "NONE"}.')] = None


class PineconeRanked(msgspec.Struct, gc=False):
    """One document."""

    index: int
    score: float
    document: dict[str, Any] | UnsetType = UNSET


class RerankUnits(msgspec.Struct):
    """What Pinecone would bill."""

    rerank_units: int


class PineconeReply(msgspec.Struct):
    """Answer to a request with Pinecone's headers."""

    model: str
    data: list[PineconeRanked]
    usage: RerankUnits


_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def to_requests(body: PineconeBody, _call: Call) -> list[RerankRequest]:
    """Return one request."""
    truncate = (body.parameters or {}).get("truncate")
    if body.truncate is None and isinstance(truncate, bool | str):
        body = msgspec.structs.replace(body, truncate=truncate)
    echo = body.return_documents is not False
    return [ranking_request(body, body.query, body.documents, top_n=body.top_n, echo=echo)]


def to_reply(results: list[RerankResult], _call: Call) -> PineconeReply:
    """Return the documents, best first."""
    (result,) = results
    data = listed(result, PineconeRanked, lambda index: as_object(result.request.originals[index]))
    return PineconeReply(model(result), data, RerankUnits(units(result)))


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """Return the documents family's error, with Pinecone's own code in `error`."""
    return documents.dump_error(error, status, request_id, code=_CODES.get(status, "INTERNAL"))


def _claims(call: Call) -> bool:
    """Return whether the headers are Pinecone's; its bodies look like others'."""
    own = bool(call.headers.get("X-Pinecone-Api-Version"))
    return own or (call.path == "/rerank" and bool(call.headers.get("Api-Key")))


DIALECT = Dialect(
    name="pinecone",
    title="Pinecone (with its header X-Pinecone-Api-Version, or Api-Key at /rerank)",
    claims=_claims,
    to_requests=to_requests,
    to_reply=to_reply,
    errors=ErrorFormat("documents", dump_error, documents.DocumentsError),
    body=PineconeBody,
    reply=PineconeReply,
    paths=("/rerank",),
    headers={"X-Pinecone-Api-Version": "2025-10"},
    example={
        "model": "any",
        "query": "how do bees find home",
        "documents": [{"id": "1", "text": "Milk keeps three days."}, {"id": "2", "text": "Bees follow the sun."}],
        "rank_fields": ["text"],
    },
)
