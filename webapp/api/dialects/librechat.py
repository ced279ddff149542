"""LibreChat's rag-api: `candidates` with ids in, their indexes out.

Source: LibreChat agents 28eab85, its own contract.
"""

from __future__ import annotations

import msgspec

from webapp.api.dialects import documents
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.reply_parts import Usage, model, ranked, usage
from webapp.api.dialects.request_parts import Count, Options, Text, ranking_request
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
    usage: Usage


def to_requests(body: CandidatesBody, _call: Call) -> list[RerankRequest]:
    """Return one request."""
    return [ranking_request(body, body.query, body.candidates, field="candidates", top_n=body.top_n)]


def to_reply(results: list[RerankResult], _call: Call) -> CandidatesReply:
    """Return the candidates, best first."""
    (result,) = results
    entries = [Candidate(*entry) for entry in ranked(result)]
    return CandidatesReply(entries, model(result), usage(results))


DIALECT = Dialect(
    name="librechat",
    title="LibreChat rag-api",
    claims=lambda call: call.has("candidates") and not call.has("documents"),
    to_requests=to_requests,
    to_reply=to_reply,
    errors=documents.ERRORS,
    body=CandidatesBody,
    reply=CandidatesReply,
    paths=("/v1/rerank", "/rerank"),
    example={"query": "how do bees find home", "candidates": [{"id": "1", "text": "Bees follow the sun."}]},
)
