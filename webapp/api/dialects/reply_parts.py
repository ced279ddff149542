"""Parts of replies that several formats share: ranks, tokens, units, warnings, words of an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.domain.errors import RerankError
from webapp.domain.types import RerankResult

T = TypeVar("T")

DOCUMENTS_A_UNIT = 100
"""Cohere and Pinecone count one unit for a query with up to this many documents."""


class Usage(msgspec.Struct, gc=False):
    """What a request took."""

    prompt_tokens: Annotated[int, Meta(description="Tokens of all pairs, special tokens counted.")]
    total_tokens: int


class Figures(msgspec.Struct, kw_only=True):
    """Numbers of an error, after its other fields; filled from `RerankError.figures`."""

    queued: Annotated[float | UnsetType, Meta(description="Of a refusal: what waits already.")] = UNSET
    limit: Annotated[float | UnsetType, Meta(description="Of a refusal: how much may.")] = UNSET
    eta_s: Annotated[float | UnsetType, Meta(description="Of a refusal: when the queue will be empty.")] = UNSET
    scored: Annotated[float | UnsetType, Meta(description="Documents scored before the time was over.")] = UNSET
    total: Annotated[float | UnsetType, Meta(description="Documents that were to be scored.")] = UNSET


def ranked(result: RerankResult) -> Iterable[tuple[int, float]]:
    """Return the index and the score of each document to return, best first."""
    return zip(result.order, result.scores, strict=True)


def listed(result: RerankResult, kind: Callable[..., T], repeated: Callable[[int], object]) -> list[T]:
    """Return an entry for each document to return, best first.

    Args:
        result: the documents.
        kind: makes an entry of an index, a score and, where documents are echoed, what is repeated.
        repeated: returns what is repeated of the document with an index.
    """
    if result.request.return_documents:
        return [kind(index, score, repeated(index)) for index, score in ranked(result)]
    return [kind(*entry) for entry in ranked(result)]


def as_object(original: Any) -> Any:
    """Return a document to repeat as an object; one that was sent as an object stays."""
    return {"text": original} if isinstance(original, str) else original


def scores_in_order(results: Sequence[RerankResult]) -> Iterator[float]:
    """Yield the scores in the order of the request."""
    for result in results:
        for _, score in sorted(ranked(result)):
            yield score


def usage(results: Sequence[RerankResult]) -> Usage:
    """Return the tokens that the model read, as OpenAI's clients expect them."""
    count = sum(result.tokens for result in results)
    return Usage(count, count)


def units(result: RerankResult) -> int:
    """Return the search units, as Cohere bills them."""
    return -(-len(result.request.documents) // DOCUMENTS_A_UNIT)


def model(result: RerankResult) -> str:
    """Return the model's name that the caller used, else the one that it is served under."""
    return result.model if result.degraded else result.request.model or result.name or result.model


def meta(result: RerankResult, version: str) -> dict[str, Any]:
    """Return Cohere's `meta`."""
    cut = warnings(result)
    return {
        "api_version": {"version": version},
        "billed_units": {"search_units": units(result)},
        "tokens": {"input_tokens": result.tokens, "output_tokens": 0},
        **({"degraded": True} if result.degraded else {}),
        **({"warnings": cut} if cut else {}),
    }


def warnings(result: RerankResult) -> tuple[str, ...]:
    """Return what of a request had no effect, and what was cut, in words for the caller."""
    found = result.request.warnings
    if result.query_cut:
        found += ("the query was longer than what is read of it and was cut",)
    if cut := sum(result.truncated):
        found += (f"{cut} of the documents returned were longer than what is read of them and were cut",)
    return found


def message_of(error: RerankError) -> str:
    """Return the message for the caller: the field that is wrong, if there is one, and what is wrong."""
    return f"{error.field}: {error.message}" if error.field else error.message
