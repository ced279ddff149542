"""Hugging Face's text-embeddings-inference, and llama.cpp's form of it: `texts` in, a bare list out.

Source: TEI 1.9.3 router/src/http/{server,types}.rs. `top_n` is not TEI's, but LiteLLM and llama.cpp's clients send it.
An empty query is fine, unless a text is empty too.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api import json_body
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import Count, Options, to_request
from webapp.api.dialects.texts import Text, query_of, texts_of
from webapp.api.error_body import message_of
from webapp.domain.errors import (
    EmptyRequestError,
    EngineFailedError,
    InvalidRequestError,
    OverloadedError,
    RerankError,
    UnavailableError,
)
from webapp.domain.types import RerankRequest, RerankResult

PATHS = ("/", "/invocations", "/predict", "/tokenize")
"""TEI's alone."""


class TeiBody(Options, kw_only=True, frozen=True):
    """A request with `query` and `texts`."""

    query: Text
    texts: str | list[Text]
    return_text: Annotated[bool | None, Meta(description="Echo the texts. Default false.")] = None
    return_documents: bool | None = None
    top_n: Annotated[Count | None, Meta(description="How many to return; absent, null or 0: all.")] = None


class Rank(msgspec.Struct, gc=False):
    """One text."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class TeiError(msgspec.Struct):
    """An error; `error` is a string here."""

    error: str
    error_type: str
    message: str
    detail: str
    code: int
    type: str
    request_id: str


def parse(call: Call) -> list[RerankRequest]:
    """Read one request."""
    body = json_body.decode(call.body, TeiBody, strict=False)
    texts = [body.texts] if isinstance(body.texts, str) else texts_of(body.texts, field="texts")
    if not texts:
        raise EmptyRequestError("must hold at least one text", field="texts")
    query = query_of(body.query, blank=True)
    if not query and not all(texts):
        raise EmptyRequestError("query and text can't both be empty", field="query")
    wanted = body.return_text if body.return_text is not None else body.return_documents
    return [to_request(body, query, texts, top_n=body.top_n, return_documents=wanted)]


def dump(results: list[RerankResult], call: Call) -> bytes:
    """A bare list, best first."""
    (result,) = results
    ranks = [Rank(index, score) for index, score in zip(result.order, result.scores, strict=True)]
    if result.request.return_documents:
        for rank in ranks:
            rank.text = result.request.documents[rank.index]
    return json_body.encode(ranks, long=call.large and result.request.return_documents)


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """An error, with TEI's `error_type`."""
    message = message_of(error)
    match error:
        case EmptyRequestError():
            kind = "Empty"
        case OverloadedError():
            kind = "Overloaded"
        case UnavailableError():
            kind = "Unhealthy"
        case EngineFailedError():
            kind = "Backend"
        case InvalidRequestError():
            kind = "Validation"
        case _:
            kind = {401: "Unauthorized", 429: "Overloaded", 500: "Backend"}.get(status, "Validation")
    return msgspec.json.encode(TeiError(message, kind, message, message, status, kind, request_id))


DIALECT = Dialect(
    name="tei",
    title="text-embeddings-inference, llama.cpp's `texts`",
    claims=lambda call: not call.has("documents") and (call.has("texts") or (call.path in PATHS and not call.fields)),
    parse=parse,
    dump=dump,
    dump_error=dump_error,
    manners="tei",
    body=TeiBody,
    reply=list[Rank],
    error=TeiError,
    example={
        "query": "how do bees find home",
        "texts": ["Milk keeps three days.", "Bees follow the sun."],
        "return_text": True,
    },
)
