"""The documents family: one reply that suits every client that sends `query` and `documents`, and three variants.

Cohere v1, Jina, Infinity, vLLM, Xinference, LocalAI and llama.cpp read `results`, Voyage and Continue read `data`.
Their requests look the same, so both are there. Sources: cohere 7.3.1 `raw_base_client.py`;
docs.voyageai.com/reference/reranker-api; infinity_emb 0.0.77 `fastapi_schemas`; vLLM 0.33.0
`entrypoints/pooling/scoring`; llama.cpp `server-common`; xinference 4.1.0 `api/schemas`; LocalAI `core/schema/jina.go`.

`document` is an object in `results` and a string in `data`, and never null: LiteLLM and Dify fail on that.
`object` is "rerank": the infinity client refuses "list".

Cohere v2, Infinity and Voyage are recognised where their calls differ; each at the end of this file says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from contracts.errors import type_of
from webapp.api.dialects.base import Call, Dialect, ErrorFormat
from webapp.api.dialects.reply_parts import Figures, Usage, as_object, listed, message_of, meta, model, usage
from webapp.api.dialects.request_parts import CountOrAll, Options, Text, ranking_request
from webapp.domain.errors import RerankError
from webapp.domain.types import RerankRequest, RerankResult

EXAMPLE = {
    "model": "any",
    "query": "how do bees find home",
    "documents": ["Milk keeps three days.", "Bees follow the sun."],
}

OWN_PATHS = ("/v1/rerank", "/reranking", "/v1/reranking")


class DocumentsBody(Options, kw_only=True, frozen=True):
    """A request with `query` and `documents`."""

    query: Text
    documents: Annotated[
        Text | list[Text],
        Meta(description="Texts, or objects with `text` (or the `rank_fields`); one text may stand alone."),
    ]
    top_n: Annotated[CountOrAll | None, Meta(description="How many to return; absent, null, 0 or -1: all.")] = None
    top_k: Annotated[CountOrAll | None, Meta(description="As `top_n`, where that is absent.")] = None
    return_documents: Annotated[bool | None, Meta(description="Echo the documents. Default false.")] = None
    rank_fields: Annotated[list[str] | None, Meta(description="Fields of an object that are scored.")] = None


class Span(msgspec.Struct, gc=False):
    """The window of a divided document that counted."""

    start: Annotated[int, Meta(description="First character.")]
    end: int
    score: float


class Ranked(msgspec.Struct, gc=False):
    """An entry of `results`."""

    index: Annotated[int, Meta(description="Its place in the request.")]
    relevance_score: Annotated[float, Meta(description="0..1, higher is more relevant.")]
    document: dict[str, Any] | str | UnsetType = UNSET
    relevant_spans: list[Span] | UnsetType = UNSET


class RankedText(msgspec.Struct, gc=False):
    """An entry of `data`."""

    index: int
    relevance_score: float
    document: str | UnsetType = UNSET


class DocumentsReply(msgspec.Struct):
    """Answer to a request with `documents`."""

    id: str
    model: Annotated[str, Meta(description="The name asked for, else the model that is served.")]
    created: Annotated[int, Meta(description="Unix time in seconds.")]
    results: Annotated[list[Ranked], Meta(description="Best first.")]
    usage: Usage
    meta: dict[str, Any]
    data: Annotated[list[RankedText] | UnsetType, Meta(description="The same, as Voyage has it.")] = UNSET
    object: str = "rerank"


class DocumentsErrorDetail(msgspec.Struct):
    """`error` of an error reply."""

    message: str
    type: str
    param: str | None
    code: int | str


class DocumentsError(Figures):
    """An error in every place where a client of this family looks for it."""

    id: str
    message: str
    detail: Annotated[str, Meta(description="The message once more: Jina's and Voyage's clients read it here.")]
    error: DocumentsErrorDetail
    status: int
    code: Annotated[str, Meta(description="Stable across releases.")]
    retryable: bool
    request_id: str


def to_requests(body: DocumentsBody, _call: Call) -> list[RerankRequest]:
    """Return one request; `top_n` goes before `top_k`."""
    top_n = body.top_k if body.top_n is None else body.top_n
    echo = bool(body.return_documents)
    return [ranking_request(body, body.query, body.documents, top_n=top_n, echo=echo, add_text=True)]


def to_reply(
    results: list[RerankResult],
    call: Call,
    *,
    echo: Literal["object", "text"] = "object",
    data: bool = True,
    version: str = "1",
) -> DocumentsReply:
    """Return the reply.

    Args:
        results: exactly one.
        call: the request.
        echo: form of `document` in `results`.
        data: whether to add Voyage's list.
        version: of Cohere's API.
    """
    (result,) = results
    request = result.request
    text = request.documents.__getitem__
    entries = listed(result, Ranked, text if echo == "text" else lambda index: as_object(request.originals[index]))
    as_data: list[Any] = entries  # the very same list, where nothing differs
    if data and (echo == "object" if request.return_documents else result.spans):
        as_data = listed(result, RankedText, text)
    for entry, span in zip(entries, result.spans, strict=bool(result.spans)):
        if span:
            entry.relevant_spans = [Span(*span, entry.relevance_score)]
    return DocumentsReply(
        id=call.request_id,
        model=model(result),
        created=call.created_s,
        results=entries,
        usage=usage(results),
        meta=meta(result, version),
        data=as_data if data else UNSET,
    )


def dump_error(error: RerankError, status: int, request_id: str, *, code: int | str | None = None) -> bytes:
    """Return the body of an error; `code` is what `error` says in place of the status."""
    message = message_of(error)
    detail = DocumentsErrorDetail(message, type_of(status), error.field, status if code is None else code)
    own = (request_id, message, message, detail, status, error.code, error.retryable, request_id)
    figures: Mapping[str, Any] = error.figures
    return msgspec.json.encode(DocumentsError(*own, **figures))


def _claims(call: Call) -> bool:
    """Return whether a call has documents, or a path that only this family's clients use."""
    return call.has("documents") or (call.path in OWN_PATHS and bool(call.fields))


ERRORS = ErrorFormat("documents", dump_error, DocumentsError)

DIALECT = Dialect(
    name="documents",
    title="Cohere v1, Jina, Voyage, vLLM, Infinity, Xinference, LocalAI, llama.cpp",
    claims=_claims,
    to_requests=to_requests,
    to_reply=to_reply,
    errors=ERRORS,
    body=DocumentsBody,
    reply=DocumentsReply,
    example={**EXAMPLE, "top_n": 2, "return_documents": True},
)

COHERE_V2 = replace(
    DIALECT,
    name="cohere_v2",
    title="Cohere v2, vLLM",
    claims=lambda call: call.path == "/v2/rerank",
    to_reply=partial(to_reply, data=False, version="2"),
    paths=("/v2/rerank",),
)
"""Cohere v2, and vLLM's route of the same name: without Voyage's list.

Source: cohere 7.3.1 `v2/raw_client.py`, docs.cohere.com/reference/rerank. Cohere refuses unknown fields, we ignore
them.
"""


def _claims_infinity(call: Call) -> bool:
    return call.path.startswith(("/infinity/", "/api/")) or (call.path == "/rerank" and call.has("raw_scores"))


INFINITY = replace(
    DIALECT,
    name="infinity",
    title="Infinity, Ollama",
    claims=_claims_infinity,
    to_reply=partial(to_reply, echo="text"),
    paths=("/rerank", "/infinity/rerank", "/api/rerank"),
    example={**DIALECT.example, "raw_scores": False},
)
"""Infinity: `document` is a string.

Source: infinity_emb 0.0.77 `fastapi_schemas/pymodels.py`; its client sends `raw_scores` always. LiteLLM's `infinity`
provider sends the same as its `hosted_vllm`, but wants strings: it has a prefix of its own. Dify's Ollama plugin wants
strings at /api/rerank.
"""


class VoyageError(msgspec.Struct):
    """An error without `error`."""

    id: str
    message: str
    detail: Annotated[str, Meta(description="The message once more: Voyage's client reads it here.")]
    status: int
    code: str
    retryable: bool
    request_id: str


def _dump_voyage_error(error: RerankError, status: int, request_id: str) -> bytes:
    message = message_of(error)
    return msgspec.json.encode(
        VoyageError(request_id, message, message, status, error.code, error.retryable, request_id)
    )


VOYAGE = replace(
    DIALECT,
    name="voyage",
    title="Voyage",
    claims=lambda call: call.path == "/v1/rerank" and call.has("truncation"),
    errors=ErrorFormat("documents", _dump_voyage_error, VoyageError),
    paths=("/v1/rerank",),
    example={**EXAMPLE, "top_k": 1, "truncation": True},
)
"""Voyage, recognised by `truncation`, which its client sends always.

Source: docs.voyageai.com/reference/reranker-api, voyageai 0.3.7 and 0.5.0. The reply is the family's. An error is not:
voyageai before 0.5 takes an object under `error` for its own and fails over it with an AttributeError.
"""
