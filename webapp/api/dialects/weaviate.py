"""Weaviate's reranker-transformers module: `scores` of all documents, each beside its text, in the request's order.

Source: weaviate modules/reranker-transformers/clients/ranker.go: sends `property` and no Content-Type, matches by text,
and wants a string in `error`.
"""

from __future__ import annotations

import msgspec

from webapp.api.dialects import tei
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.reply_parts import scores_in_order
from webapp.api.dialects.request_parts import Options, Text, ranking_request
from webapp.domain.types import RerankRequest, RerankResult


class WeaviateBody(Options, kw_only=True, frozen=True):
    """A request with `property`."""

    query: Text
    documents: Text | list[Text]
    property: str


class DocumentScore(msgspec.Struct, gc=False):
    """One document."""

    document: str
    score: float


class WeaviateReply(msgspec.Struct):
    """Answer to a request with `property`."""

    scores: list[DocumentScore]


def to_requests(body: WeaviateBody, _call: Call) -> list[RerankRequest]:
    """Return one request."""
    return [ranking_request(body, body.query, body.documents, echo=True)]


def to_reply(results: list[RerankResult], _call: Call) -> WeaviateReply:
    """Return the scores in the order of the request."""
    pairs = zip(results[0].request.documents, scores_in_order(results), strict=True)
    return WeaviateReply([DocumentScore(*pair) for pair in pairs])


DIALECT = Dialect(
    name="weaviate",
    title="Weaviate reranker-transformers",
    claims=lambda call: call.path == "/rerank" and call.has("property"),
    to_requests=to_requests,
    to_reply=to_reply,
    errors=tei.ERRORS,
    body=WeaviateBody,
    reply=WeaviateReply,
    paths=("/rerank",),
    example={
        "query": "how do bees find home",
        "documents": ["Milk keeps three days.", "Bees follow the sun."],
        "property": "",
    },
)
