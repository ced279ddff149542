"""The documents family: one reply that suits every client that sends `query` and `documents`.

Cohere v1, Jina, Infinity, vLLM, Xinference, LocalAI and llama.cpp read `results`, Voyage and Continue read `data`.
Their requests can't be told apart, so both are there. Sources: cohere 7.3.1 `raw_base_client.py`;
docs.voyageai.com/reference/reranker-api; infinity_emb 0.0.77 `fastapi_schemas`; vLLM 0.33.0
`entrypoints/pooling/scoring`; llama.cpp `server-common`; xinference 4.1.0 `api/schemas`; LocalAI `core/schema/jina.go`.

`document` is an object in `results` and a string in `data`, and never null: LiteLLM and Dify fail on that.
`object` is "rerank": the infinity client refuses "list".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api import json_body
from webapp.api.dialects import usage
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import CountOrAll, Options, to_request
from webapp.api.dialects.texts import Text, as_list, as_sent, ignored_rank_fields, query_of, texts_of
from webapp.api.error_body import message_of, type_of
from webapp.domain.errors import RerankError
from webapp.domain.types import RerankRequest, RerankResult

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
    usage: usage.Usage
    meta: dict[str, Any]
    data: Annotated[list[RankedText] | UnsetType, Meta(description="The same, as Voyage has it.")] = UNSET
    object: str = "rerank"


class DocumentsErrorDetail(msgspec.Struct):
    """`error` of an error reply."""

    message: str
    type: str
    param: str | None
    code: int | str


class DocumentsError(msgspec.Struct, omit_defaults=True):
    """An error in every place where a client of this family looks for it."""

    id: str
    message: str
    detail: Annotated[str, Meta(description="The message once more: Jina's and Voyage's clients read it here.")]
    error: DocumentsErrorDetail
    status: int
    code: Annotated[str, Meta(description="Stable across releases.")]
    retryable: bool
    request_id: str
    queued: Annotated[int | None, Meta(description="Of a refusal: what waits already.")] = None
    limit: Annotated[int | None, Meta(description="Of a refusal: how much may.")] = None
    eta_s: Annotated[float | None, Meta(description="Of a refusal: when the queue will be empty.")] = None
    scored: Annotated[int | None, Meta(description="Documents scored before the time was over.")] = None
    total: Annotated[int | None, Meta(description="Documents that were to be scored.")] = None


def parse(call: Call) -> list[RerankRequest]:
    """Read one request; `top_n` goes before `top_k`."""
    body = json_body.decode(call.body, DocumentsBody, strict=False)
    documents = as_list(body.documents)
    texts = texts_of(documents, body.rank_fields)
    return [
        to_request(
            body,
            query_of(body.query),
            texts,
            originals=as_sent(list(map(_echo, documents, texts))) if body.return_documents else (),
            top_n=body.top_k if body.top_n is None else body.top_n,
            return_documents=body.return_documents,
            warnings=ignored_rank_fields(documents, body.rank_fields),
        )
    ]


def dump(
    results: list[RerankResult],
    call: Call,
    *,
    echo: Literal["object", "text"] = "object",
    data: bool = True,
    version: str = "1",
) -> bytes:
    """The answer.

    Args:
        results: one.
        call: what was asked.
        echo: form of `document` in `results`.
        data: whether Voyage's list is there too.
        version: of Cohere's API.
    """
    (result,) = results
    request = result.request
    ranked = [Ranked(index, score) for index, score in zip(result.order, result.scores, strict=True)]
    listed: list[Any] = ranked  # the very same list, where nothing differs
    if request.return_documents:
        texts, originals = request.documents, request.originals
        for entry in ranked:
            entry.document = texts[entry.index] if echo == "text" else _object(originals[entry.index])
        if echo == "object" and data:
            listed = [RankedText(entry.index, entry.relevance_score, texts[entry.index]) for entry in ranked]
    elif result.spans and data:
        listed = [RankedText(entry.index, entry.relevance_score) for entry in ranked]
    for entry, span in zip(ranked, result.spans, strict=bool(result.spans)):
        if span:
            entry.relevant_spans = [Span(*span, entry.relevance_score)]
    return json_body.encode(
        DocumentsReply(
            id=call.request_id,
            model=usage.model(result),
            created=call.created_s,
            results=ranked,
            usage=usage.usage(results),
            meta=usage.meta(result, version),
            data=listed if data else UNSET,
        ),
        long=call.large and request.return_documents,
    )


def _echo(document: Text, text: str) -> Text:
    """The document with its `text`; what the caller sent beside it stays."""
    if isinstance(document, str):
        return document
    own = document.get("text")
    if own is not None and bytes(memoryview(own)[:1]) == b'"':
        return document
    return {**document, "text": msgspec.Raw(msgspec.json.encode(text))}


def _object(original: str | msgspec.Raw) -> Any:
    return {"text": original} if isinstance(original, str) else original


def dump_error(error: RerankError, status: int, request_id: str, *, code: int | str | None = None) -> bytes:
    """An error, `detail` always a string."""
    message = message_of(error)
    detail = DocumentsErrorDetail(message, type_of(status), error.field, status if code is None else code)
    return msgspec.json.encode(
        DocumentsError(
            request_id,
            message,
            message,
            detail,
            status,
            error.code,
            error.retryable,
            request_id,
            **error.figures,  # type: ignore[arg-type]
        )
    )


def _claims(call: Call) -> bool:
    """Whether a call has documents, or a path at which only this family's clients send what no other format claimed."""
    return call.has("documents") or (call.path in OWN_PATHS and bool(call.fields))


DIALECT = Dialect(
    name="documents",
    title="Cohere v1, Jina, Voyage, vLLM, Infinity, Xinference, LocalAI, llama.cpp",
    claims=_claims,
    parse=parse,
    dump=dump,
    dump_error=dump_error,
    manners="documents",
    body=DocumentsBody,
    reply=DocumentsReply,
    error=DocumentsError,
    example={
        "model": "any",
        "query": "how do bees find home",
        "documents": ["Milk keeps three days.", "Bees follow the sun."],
        "top_n": 2,
        "return_documents": True,
    },
)
