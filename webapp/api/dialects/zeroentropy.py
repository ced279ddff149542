"""ZeroEntropy: `query` and `documents` in, `results` with times and counts out; documents are never echoed.

Source: zeroentropy 0.1.0a11 `types/model_rerank_params.py` and `types/model_rerank_response.py`;
docs.zeroentropy.dev/api-reference/models/rerank, for `total_bytes` as well. Recognised by its path. Its client reads
an error by its status and shows the body as it is.

`latency: "slow"` is a request that may wait: it goes after those of usual priority, unless it has a `priority`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from webapp.api.dialects import documents
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.reply_parts import ranked
from webapp.api.dialects.request_parts import Count, Options, Text, ranking_request
from webapp.domain.types import RerankRequest, RerankResult

PATH = "/v1/models/rerank"

SLOW_PRIORITY = 1
"""Of a request that may wait; the usual one is 0, and lower goes first."""

BYTES_A_DOCUMENT = 150
"""What ZeroEntropy counts for each document, beside its bytes and the query's."""

Latency = Literal["fast", "slow"]


class ZeroEntropyBody(Options, kw_only=True, frozen=True):
    """A request at ZeroEntropy's path."""

    query: Text
    documents: Annotated[Text | list[Text], Meta(description="Texts, or objects with `text`.")]
    top_n: Annotated[Count | None, Meta(description="How many to return; absent, null or 0: all.")] = None
    latency: Annotated[
        Latency | None, Meta(description='"slow": goes after requests of usual priority, unless `priority` is given.')
    ] = None


class ZeroEntropyRanked(msgspec.Struct, gc=False):
    """One document."""

    index: int
    relevance_score: float


class ZeroEntropyReply(msgspec.Struct):
    """Answer at ZeroEntropy's path."""

    results: list[ZeroEntropyRanked]
    total_bytes: Annotated[int, Meta(description="As ZeroEntropy counts: 150, the query and the document, for each.")]
    total_tokens: int
    actual_latency_mode: Annotated[Latency, Meta(description="slow if it went after requests of usual priority.")]
    e2e_latency: Annotated[float, Meta(description="Seconds.")]
    inference_latency: Annotated[float, Meta(description="Seconds in a batch; 0 if all scores were known.")]


def to_requests(body: ZeroEntropyBody, _call: Call) -> list[RerankRequest]:
    """Return one request."""
    request = ranking_request(body, body.query, body.documents, top_n=body.top_n)
    if body.latency == "slow" and body.priority is None:
        request = replace(request, priority=SLOW_PRIORITY)
    return [request]


def to_reply(results: list[RerankResult], _call: Call) -> ZeroEntropyReply:
    """Return the documents, best first."""
    (result,) = results
    return ZeroEntropyReply(
        results=[ZeroEntropyRanked(*entry) for entry in ranked(result)],
        total_bytes=_bytes_of(result.request),
        total_tokens=result.tokens,
        actual_latency_mode="slow" if result.request.priority >= SLOW_PRIORITY else "fast",
        e2e_latency=result.latency_ms / 1000,
        inference_latency=result.spent.score_ms / 1000,
    )


def _bytes_of(request: RerankRequest) -> int:
    texts = sum(map(_utf8_bytes, request.documents))
    return texts + len(request.documents) * (BYTES_A_DOCUMENT + _utf8_bytes(request.query))


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


DIALECT = Dialect(
    name="zeroentropy",
    title="ZeroEntropy",
    claims=lambda call: call.path == PATH,
    to_requests=to_requests,
    to_reply=to_reply,
    errors=documents.ERRORS,
    body=ZeroEntropyBody,
    reply=ZeroEntropyReply,
    paths=(PATH,),
    example={
        "model": "any",
        "query": "how do bees find home",
        "documents": ["Milk keeps three days.", "Bees follow the sun."],
        "top_n": 2,
        "latency": "fast",
    },
)
