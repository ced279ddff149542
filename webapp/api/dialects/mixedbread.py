"""Mixedbread: `input` in, `data` with `score` out.

Source: mixedbread 0.54.0, mixedbread.com/api-reference. Without `top_k` every input comes back.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api import json_body
from webapp.api.dialects import documents, usage
from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.options import Count, Options, to_request
from webapp.api.dialects.texts import Text, as_list, as_sent, ignored_rank_fields, query_of, texts_of
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

    usage: usage.Usage
    model: str
    data: list[RankResult]
    top_k: int
    return_input: bool
    object: str = "list"


def parse(call: Call) -> list[RerankRequest]:
    """Read one request."""
    body = json_body.decode(call.body, MixedbreadBody, strict=False)
    inputs = as_list(body.input, "input")
    return [
        to_request(
            body,
            query_of(body.query),
            texts_of(inputs, body.rank_fields, field="input"),
            originals=as_sent(inputs) if body.return_input else (),
            top_n=body.top_n if body.top_k is None else body.top_k,
            return_documents=body.return_input,
            warnings=ignored_rank_fields(inputs, body.rank_fields),
        )
    ]


def dump(results: list[RerankResult], call: Call) -> bytes:
    """Best first."""
    (result,) = results
    request = result.request
    data = [RankResult(index, score) for index, score in zip(result.order, result.scores, strict=True)]
    if request.return_documents:
        for entry in data:
            entry.input = request.originals[entry.index]
    echo = request.return_documents
    return json_body.encode(
        MixedbreadReply(usage.usage(results), usage.model(result), data, len(data), echo), long=call.large and echo
    )


DIALECT = Dialect(
    name="mixedbread",
    title="Mixedbread",
    claims=lambda call: call.has("input") and not call.has("documents"),
    parse=parse,
    dump=dump,
    dump_error=documents.dump_error,
    manners="documents",
    body=MixedbreadBody,
    reply=MixedbreadReply,
    error=documents.DocumentsError,
    example={
        "model": "any",
        "query": "how do bees find home",
        "input": ["Milk keeps three days.", "Bees follow the sun."],
        "return_input": True,
    },
)
