"""Pinecone: objects in, `data` with `score` and the objects out, `return_documents` by default.

Source: pinecone-api 2025-10 (inference OpenAPI), pinecone 10.2.0 `client/inference.py`. Told by its headers: its own
`X-Pinecone-Api-Version`, or a key in `Api-Key` at its own path.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api import json_body
from webapp.api.dialects import documents, usage
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import Count, Options, to_request
from webapp.api.dialects.texts import Text, as_list, as_sent, ignored_rank_fields, query_of, texts_of
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


CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def parse(call: Call) -> list[RerankRequest]:
    """Read one request."""
    body = json_body.decode(call.body, PineconeBody, strict=False)
    documents = as_list(body.documents)
    truncate = (body.parameters or {}).get("truncate")
    echo = body.return_documents is not False
    return [
        to_request(
            body,
            query_of(body.query),
            texts_of(documents, body.rank_fields),
            originals=as_sent(documents) if echo else (),
            top_n=body.top_n,
            return_documents=echo,
            truncate=truncate if isinstance(truncate, bool | str) else None,
            warnings=ignored_rank_fields(documents, body.rank_fields),
        )
    ]


def dump(results: list[RerankResult], call: Call) -> bytes:
    """Best first."""
    (result,) = results
    request = result.request
    data = [PineconeRanked(index, score) for index, score in zip(result.order, result.scores, strict=True)]
    if request.return_documents:
        for entry in data:
            original = request.originals[entry.index]
            entry.document = {"text": original} if isinstance(original, str) else original
    reply = PineconeReply(usage.model(result), data, RerankUnits(usage.units(result)))
    return json_body.encode(reply, long=call.large and request.return_documents)


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """The family's error with Pinecone's own code in `error`."""
    return documents.dump_error(error, status, request_id, code=CODES.get(status, "INTERNAL"))


def is_pinecone(call: Call) -> bool:
    """By header only: its bodies look like others'."""
    own = bool(call.headers.get("X-Pinecone-Api-Version"))
    return own or (call.path == "/rerank" and bool(call.headers.get("Api-Key")))


DIALECT = Dialect(
    name="pinecone",
    title="Pinecone (with its header X-Pinecone-Api-Version, or Api-Key at /rerank)",
    claims=is_pinecone,
    parse=parse,
    dump=dump,
    dump_error=dump_error,
    manners="documents",
    body=PineconeBody,
    reply=PineconeReply,
    error=documents.DocumentsError,
    paths=("/rerank",),
    example={
        "model": "any",
        "query": "how do bees find home",
        "documents": [{"id": "1", "text": "Milk keeps three days."}, {"id": "2", "text": "Bees follow the sun."}],
        "rank_fields": ["text"],
    },
)
