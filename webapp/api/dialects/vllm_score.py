"""vLLM's score API: pairs, scored in the order of the request.

Source: vLLM 0.33.0 `entrypoints/pooling/scoring/{protocol,serving}.py`: `queries` with `documents` or `items`, `data_1`
with `data_2`, `text_1` with `text_2`; one to one, one to many, or as many to as many.
"""

from __future__ import annotations

import msgspec

from webapp.api.dialects import documents
from webapp.api.dialects.base import RERANK_PATHS, Call, Dialect
from webapp.api.dialects.reply_parts import Usage, model, scores_in_order, usage
from webapp.api.dialects.request_parts import Options, Text, as_list, query_of, texts_of, to_request
from webapp.domain.errors import EmptyRequestError, InvalidRequestError
from webapp.domain.types import RerankRequest, RerankResult

PATHS = ("/score", "/v1/score")

Texts = Text | list[Text]


class ScoreBody(Options, kw_only=True, frozen=True):
    """Two sides, under one pair of names."""

    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None


class Score(msgspec.Struct, gc=False):
    """One pair."""

    index: int
    score: float
    object: str = "score"


class ScoreReply(msgspec.Struct):
    """Scores in the order of the request."""

    id: str
    created: int
    model: str
    data: list[Score]
    usage: Usage
    object: str = "list"


def to_requests(body: ScoreBody, _call: Call) -> list[RerankRequest]:
    """Return one request for each query; pairs that share their query are one request."""
    first, _ = _side(body, "queries", "data_1", "text_1")
    second, name = _side(body, "documents", "items", "data_2", "text_2")
    texts = texts_of(second, field=name)
    queries = [query_of(text, blank=True) for text in first]
    if len(queries) == 1:
        return [to_request(body, queries[0], texts)]
    if len(queries) != len(second):
        raise InvalidRequestError(
            f"there are {len(queries)} queries and {len(second)} documents; send one query, or as many as documents"
        )
    return [to_request(body, query, [text]) for query, text in zip(queries, texts, strict=True)]


def _side(body: ScoreBody, *names: str) -> tuple[list[Text], str]:
    """Return the texts of one side, and the name of their field."""
    for name in names:
        value = getattr(body, name)
        if value is not None:
            texts = as_list(value, name)
            if not texts:
                raise EmptyRequestError("must not be empty", field=name)
            return texts, name
    raise InvalidRequestError("is required", field=names[0])


def to_reply(results: list[RerankResult], call: Call) -> ScoreReply:
    """Return the scores in the order of the request."""
    data = [Score(*entry) for entry in enumerate(scores_in_order(results))]
    return ScoreReply(call.request_id, call.created_s, model(results[0]), data, usage(results))


def _claims(call: Call) -> bool:
    return call.path in PATHS or call.has("text_1", "data_1", "queries")


DIALECT = Dialect(
    name="vllm_score",
    title="vLLM score",
    claims=_claims,
    to_requests=to_requests,
    to_reply=to_reply,
    errors=documents.ERRORS,
    body=ScoreBody,
    reply=ScoreReply,
    paths=(*PATHS, *RERANK_PATHS),
    example={"model": "any", "text_1": "how do bees find home", "text_2": ["Milk keeps.", "Bees follow the sun."]},
)
