"""Weaviate's reranker-transformers module: `scores` of all documents, each beside its text, in the request's order.

Source: weaviate modules/reranker-transformers/clients/ranker.go: sends `property` and no Content-Type, matches by text,
and wants a string in `error`.
"""

from __future__ import annotations

import msgspec

from webapp.api import json_body
from webapp.api.dialects import tei
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import Options, to_request
from webapp.api.dialects.texts import Text, as_list, query_of, texts_of
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


def parse(call: Call) -> list[RerankRequest]:
    """Read one request."""
    body = json_body.decode(call.body, WeaviateBody, strict=False)
    documents = as_list(body.documents)
    return [to_request(body, query_of(body.query), texts_of(documents))]


def dump(results: list[RerankResult], call: Call) -> bytes:
    """In the order of the request."""
    (result,) = results
    scores = dict(zip(result.order, result.scores, strict=True))
    texts = result.request.documents
    reply = WeaviateReply([DocumentScore(text, scores[i]) for i, text in enumerate(texts)])
    return json_body.encode(reply, long=call.large)


DIALECT = Dialect(
    name="weaviate",
    title="Weaviate reranker-transformers",
    claims=lambda call: call.path == "/rerank" and call.has("property"),
    parse=parse,
    dump=dump,
    dump_error=tei.dump_error,
    manners="tei",
    body=WeaviateBody,
    reply=WeaviateReply,
    error=tei.TeiError,
    paths=("/rerank",),
    example={
        "query": "how do bees find home",
        "documents": ["Milk keeps three days.", "Bees follow the sun."],
        "property": "",
    },
)
