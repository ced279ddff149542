"""Figures that replies carry in every format: tokens, units, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from webapp.domain.types import RerankResult

DOCUMENTS_A_UNIT = 100
"""Cohere and Pinecone count one unit for a query with up to this many documents."""


class Usage(msgspec.Struct, gc=False):
    """What a request took."""

    prompt_tokens: Annotated[int, Meta(description="Tokens of all pairs, special tokens counted.")]
    total_tokens: int


def tokens(results: Sequence[RerankResult]) -> int:
    """Tokens that the model reads for these results."""
    return sum(result.tokens for result in results)


def usage(results: Sequence[RerankResult]) -> Usage:
    """As OpenAI's clients know it."""
    count = tokens(results)
    return Usage(count, count)


def units(result: RerankResult) -> int:
    """Search units, as Cohere bills them."""
    return -(-len(result.request.documents) // DOCUMENTS_A_UNIT)


def model(result: RerankResult) -> str:
    """The name that the caller used for the model, else the one that it is served under."""
    return result.model if result.degraded else result.request.model or result.name or result.model


def meta(result: RerankResult, version: str) -> dict[str, Any]:
    """Cohere's `meta`."""
    said: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"search_units": units(result)},
        "tokens": {"input_tokens": result.tokens, "output_tokens": 0},
    }
    if result.degraded:
        said["degraded"] = True
    if said_too := warnings(result):
        said["warnings"] = said_too
    return said


def warnings(result: RerankResult) -> tuple[str, ...]:
    """What of a request had no effect, and what was cut, in words for the caller."""
    said = result.request.warnings
    if result.query_cut:
        said += ("the query was longer than what is read of it and was cut",)
    if cut := sum(result.truncated):
        said += (f"{cut} of the documents returned were longer than what is read of them and were cut",)
    return said
