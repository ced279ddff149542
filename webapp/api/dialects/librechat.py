"""LibreChat's rag-api: `candidates` with ids in, their indexes out.

Source: LibreChat agents 28eab85, its own contract.
"""

from __future__ import annotations

import msgspec

from webapp.api import json_body
from webapp.api.dialects import documents, usage
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import Count, Options, to_request
from webapp.api.dialects.texts import Text, query_of, texts_of
from webapp.domain.types import RerankRequest, RerankResult


class CandidatesBody(Options, kw_only=True, frozen=True):
    """A request with `query` and `candidates`."""

    query: Text
    candidates: list[Text]
    top_n: Count | None = None


class Candidate(msgspec.Struct, gc=False):
    """One candidate."""

    index: int
    score: float


class CandidatesReply(msgspec.Struct):
    """Answer to a request with `candidates`."""

    results: list[Candidate]
    model: str
    usage: usage.Usage


def parse(call: Call) -> list[RerankRequest]:
    """Read one request."""
    body = json_body.decode(call.body, CandidatesBody, strict=False)
    texts = texts_of(body.candidates, field="candidates")
    return [to_request(body, query_of(body.query), texts, top_n=body.top_n)]


def dump(results: list[RerankResult], _call: Call) -> bytes:
    """Best first."""
    (result,) = results
    ranked = [Candidate(index, score) for index, score in zip(result.order, result.scores, strict=True)]
    return msgspec.json.encode(CandidatesReply(ranked, usage.model(result), usage.usage(results)))


DIALECT = Dialect(
    name="librechat",
    title="LibreChat rag-api",
    claims=lambda call: call.has("candidates") and not call.has("documents"),
    parse=parse,
    dump=dump,
    dump_error=documents.dump_error,
    manners="documents",
    body=CandidatesBody,
    reply=CandidatesReply,
    error=documents.DocumentsError,
    paths=("/v1/rerank", "/rerank"),
    example={"query": "how do bees find home", "candidates": [{"id": "1", "text": "Bees follow the sun."}]},
)
