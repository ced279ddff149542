"""Figures that replies carry in every format: tokens, units, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from webapp.types import RerankResult

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
    """The model that the caller named, else the one that is served."""
    return result.model if result.degraded else result.request.model or result.model


def meta(result: RerankResult, version: str) -> dict[str, Any]:
    """Cohere's `meta`."""
    said: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"search_units": units(result)},
        "tokens": {"input_tokens": result.tokens, "output_tokens": 0},
    }
    if result.degraded:
        said["degraded"] = True
    warnings = list(result.request.warnings)
    if cut := sum(result.truncated):
        warnings.append(f"{cut} of the documents returned were longer than what is read of them and were cut")
    if warnings:
        said["warnings"] = warnings
    return said
