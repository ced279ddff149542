"""Mixedbread: `input` in, `data` with `score` out.

Source: mixedbread 0.54.0, mixedbread.com/api-reference. Without `top_k` every input comes back.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api.dialects import documents
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.reply_parts import Usage, listed, model, usage
from webapp.api.dialects.request_parts import Count, Options, Text, ranking_request
from webapp.domain.types import RerankRequest, RerankResult


class MixedbreadBody(Options, kw_only=True, frozen=True):
    """A request with `query` and `input`."""

    query: Text
    input: Annotated[Text | list[Text], Meta(description="Texts or objects.")]
    rank_fields: list[str] | None = None
    top_k: Annotated[Count | None, Meta(description="How many to return; absent, null or 0: all.")] = None
    top_n: Count | None = None
    return_input: Annotated[bool | None, Meta(description="Echo the inputs. Default false.")] = None


class RankResult(msgspec.Struct, gc=False):
    """One input."""

    index: int
    score: float
    input: str | dict[str, Any] | UnsetType = UNSET
    object: str = "rank_result"


class MixedbreadReply(msgspec.Struct):
    """Answer to a request with `input`."""

    usage: Usage
    model: str
    data: list[RankResult]
    top_k: int
    return_input: bool
    object: str = "list"


def to_requests(body: MixedbreadBody, _call: Call) -> list[RerankRequest]:
    """Return one request."""
    top_n = body.top_n if body.top_k is None else body.top_k
    echo = bool(body.return_input)
    return [ranking_request(body, body.query, body.input, field="input", top_n=top_n, echo=echo)]


def to_reply(results: list[RerankResult], _call: Call) -> MixedbreadReply:
    """Return the inputs, best first."""
    (result,) = results
    data = listed(result, RankResult, result.request.originals.__getitem__)
    return MixedbreadReply(usage(results), model(result), data, len(data), result.request.return_documents)


DIALECT = Dialect(
    name="mixedbread",
    title="Mixedbread",
    claims=lambda call: call.has("input") and not call.has("documents"),
    to_requests=to_requests,
    to_reply=to_reply,
    errors=documents.ERRORS,
    body=MixedbreadBody,
    reply=MixedbreadReply,
    example={
        "model": "any",
        "query": "how do bees find home",
        "input": ["Milk keeps three days.", "Bees follow the sun."],
        "return_input": True,
    },
)
