"""NVIDIA NIM: `passages` in, `rankings` of raw logits out.

Source: docs.nvidia.com NeMo Retriever reranking; llama-index-postprocessor-nvidia-rerank 0.7.0. NIM has no limit;
LiteLLM adds `top_k`, ragflow `top_n`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta

from webapp.api import json_body
from webapp.api.dialects import documents, usage
from webapp.api.dialects.base import RERANK_PATHS, Call, Dialect
from webapp.api.dialects.options import Count, Options, to_request
from webapp.api.dialects.texts import Text, as_list, query_of, texts_of
from webapp.domain.types import RerankRequest, RerankResult

PATHS = ("/v1/ranking", "/v1/retrieval/{model}/reranking")


class NimBody(Options, kw_only=True, frozen=True):
    """A request with `query` and `passages`."""

    query: Text
    passages: Annotated[Text | list[Text], Meta(description="Objects with `text`, or texts.")]
    top_k: Count | None = None
    top_n: Count | None = None


class Ranking(msgspec.Struct, gc=False):
    """One passage."""

    index: int
    logit: Annotated[float, Meta(description="The model's own number, whatever was asked.")]


class NimReply(msgspec.Struct):
    """Answer to a request with `passages`."""

    rankings: list[Ranking]
    usage: usage.Usage
    model: str


def parse(call: Call) -> list[RerankRequest]:
    """Read one request."""
    body = json_body.decode(call.body, NimBody, strict=False)
    passages = as_list(body.passages, "passages")
    top_n = body.top_n if body.top_n is not None else body.top_k
    query = query_of(body.query)
    texts = texts_of(passages, field="passages")
    request = to_request(body, query, texts, top_n=top_n, raw_scores=True)
    if request.model is None and call.model_url:
        return [replace(request, model=call.model_url)]
    return [request]


def dump(results: list[RerankResult], _call: Call) -> bytes:
    """Best first."""
    (result,) = results
    rankings = [Ranking(index, score) for index, score in zip(result.order, result.scores, strict=True)]
    return msgspec.json.encode(NimReply(rankings, usage.usage(results), usage.model(result)))


def _claims(call: Call) -> bool:
    alone = call.path == "/v1/ranking" or call.path.startswith("/v1/retrieval/")
    return not call.has("documents") and (call.has("passages") or (alone and not call.has("texts")))


DIALECT = Dialect(
    name="nim",
    title="NVIDIA NIM",
    claims=_claims,
    parse=parse,
    dump=dump,
    dump_error=documents.dump_error,
    manners="documents",
    body=NimBody,
    reply=NimReply,
    error=documents.DocumentsError,
    paths=(*RERANK_PATHS, *PATHS),
    example={
        "model": "any",
        "query": {"text": "how do bees find home"},
        "passages": [{"text": "Milk keeps three days."}, {"text": "Bees follow the sun."}],
    },
)
