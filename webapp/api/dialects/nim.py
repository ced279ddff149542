"""NVIDIA NIM: `passages` in, `rankings` of raw logits out.

Source: docs.nvidia.com NeMo Retriever reranking; llama-index-postprocessor-nvidia-rerank 0.7.0. NIM has no limit;
LiteLLM adds `top_k`, ragflow `top_n`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta

from webapp.api.dialects import documents
from webapp.api.dialects.base import RERANK_PATHS, Call, Dialect
from webapp.api.dialects.reply_parts import Usage, model, ranked, usage
from webapp.api.dialects.request_parts import Count, Options, Text, ranking_request
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
    usage: Usage
    model: str


def to_requests(body: NimBody, call: Call) -> list[RerankRequest]:
    """Return one request."""
    top_n = body.top_n if body.top_n is not None else body.top_k
    request = ranking_request(body, body.query, body.passages, field="passages", top_n=top_n)
    return [replace(request, raw_scores=True, model=request.model or call.model_url)]


def to_reply(results: list[RerankResult], _call: Call) -> NimReply:
    """Return the rankings, best first."""
    (result,) = results
    rankings = [Ranking(*entry) for entry in ranked(result)]
    return NimReply(rankings, usage(results), model(result))


def _claims(call: Call) -> bool:
    own_path = call.path == "/v1/ranking" or call.path.startswith("/v1/retrieval/")
    return not call.has("documents") and (call.has("passages") or (own_path and not call.has("texts")))


DIALECT = Dialect(
    name="nim",
    title="NVIDIA NIM",
    claims=_claims,
    to_requests=to_requests,
    to_reply=to_reply,
    errors=documents.ERRORS,
    body=NimBody,
    reply=NimReply,
    paths=(*RERANK_PATHS, *PATHS),
    example={
        "model": "any",
        "query": {"text": "how do bees find home"},
        "passages": [{"text": "Milk keeps three days."}, {"text": "Bees follow the sun."}],
    },
)
