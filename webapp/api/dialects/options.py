"""Options that many formats share, under the names that clients know them by.

Sources: Cohere v1 and v2 (`max_chunks_per_doc`, `max_tokens_per_doc`, `priority`), TEI 1.9.3 router/src/http/types.rs
(`truncate`, `truncation_direction`, `raw_scores`), vLLM 0.33.0 entrypoints/pooling/scoring (`truncate_prompt_tokens`,
`truncation_side`, `max_tokens_per_query`, `use_activation`, `instruction`), Voyage (`truncation`), NIM and Pinecone
(`truncate` "NONE", "END", "START"), SiliconFlow (`overlap_tokens`). null is as good as absent everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from webapp.domain.errors import EmptyRequestError, InvalidRequestError
from webapp.domain.types import RerankRequest, Truncation

LOWEST_PRIORITY = 1000
"""Priorities beyond plus or minus this are as good as this."""

MOST_WINDOWS = 10_000

Truncate = bool | str | None

Count = Annotated[int, Meta(ge=0)]

CountOrAll = Annotated[int, Meta(ge=-1)]
"""-1 is all, as older releases of vLLM had it."""


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Every field may be absent or null; unknown fields are ignored."""

    model: Annotated[str | None, Meta(description="Any name is taken, unless RERANK_STRICT_MODEL is set.")] = None
    max_tokens_per_doc: Annotated[
        Count | None, Meta(description="Tokens of each document that count; 0 or null: no limit but the model's.")
    ] = None
    max_tokens_per_query: Annotated[Count | None, Meta(description="Tokens of the query that count.")] = None
    max_chunks_per_doc: Annotated[
        Count | None,
        Meta(description="Score a long document in up to this many overlapping windows; the best one counts."),
    ] = None
    overlap_tokens: Annotated[Count | None, Meta(description="Tokens that neighbouring windows share.")] = None
    truncate: Annotated[
        bool | str | None,
        Meta(description='false or "NONE" refuses pairs longer than the model reads; "END", "START": what is cut off.'),
    ] = None
    truncation: Annotated[bool | str | None, Meta(description="As `truncate`.")] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, Meta(ge=-1)] | None, Meta(description="Longest pair in tokens; -1: the model's limit.")
    ] = None
    truncation_side: Annotated[str | None, Meta(description='"right" (default) or "left": where to cut.')] = None
    truncation_direction: Annotated[str | None, Meta(description="As `truncation_side`.")] = None
    raw_scores: Annotated[bool | None, Meta(description="The model's numbers rather than scores in 0..1.")] = None
    use_activation: Annotated[bool | None, Meta(description="false: as `raw_scores`.")] = None
    priority: Annotated[int | None, Meta(description="Lower goes first.")] = None
    instruction: Annotated[Any, Meta(description="Accepted; without effect, and a warning says so.")] = None


def to_request(
    options: Options,
    query: str,
    documents: list[str],
    *,
    originals: Sequence[Any] = (),
    top_n: int | None = None,
    return_documents: bool | None = False,
    raw_scores: bool = False,
    truncate: Truncate = None,
    warnings: tuple[str, ...] = (),
) -> RerankRequest:
    """A request in our own words.

    Args:
        options: what was asked beside texts.
        query: the question.
        documents: the texts to score.
        originals: see `RerankRequest`.
        top_n: 0, -1 and None mean all.
        return_documents: whether to echo.
        raw_scores: for formats whose scores are always raw.
        truncate: where a format has it elsewhere than at the top.
        warnings: what else has no effect.
    """
    if not documents:
        raise EmptyRequestError("must hold at least one document", field="documents")
    if options.instruction:
        warnings += ("instruction was ignored: the model has no template for one",)
    return RerankRequest(
        query=query,
        documents=documents,
        originals=originals,
        top_n=top_n if top_n and top_n > 0 else None,
        raw_scores=raw_scores or bool(options.raw_scores) or options.use_activation is False,
        return_documents=bool(return_documents),
        model=options.model or None,
        truncation=_truncation(options, truncate),
        priority=max(-LOWEST_PRIORITY, min(LOWEST_PRIORITY, options.priority or 0)),
        warnings=warnings,
    )


_FITTING = (
    "max_tokens_per_doc",
    "max_tokens_per_query",
    "max_chunks_per_doc",
    "truncate",
    "truncation",
    "truncate_prompt_tokens",
    "truncation_side",
    "truncation_direction",
)


def _truncation(options: Options, truncate: Truncate) -> Truncation | None:
    if truncate is None and all(getattr(options, name) is None for name in _FITTING):
        return None
    keep, strict = _cut("truncate", truncate if options.truncate is None else options.truncate)
    if options.truncation is not None:
        keep, strict = _cut("truncation", options.truncation)
    for name in ("truncation_side", "truncation_direction"):
        side = getattr(options, name)
        if side is not None:
            keep = _kept(name, side)
    pair = options.truncate_prompt_tokens
    truncation = Truncation(
        max_query_tokens=options.max_tokens_per_query or None,
        max_document_tokens=options.max_tokens_per_doc or None,
        max_pair_tokens=pair if pair and pair > 0 else None,
        windows=max(1, min(options.max_chunks_per_doc or 1, MOST_WINDOWS)),
        overlap_tokens=options.overlap_tokens,
        keep=keep,
        strict=strict and pair is None,
    )
    return None if truncation == Truncation() else truncation


def _cut(name: str, value: Truncate) -> tuple[Literal["start", "end"], bool]:
    """Which part of a text to keep, and whether to refuse to cut it."""
    match value.strip().lower() if isinstance(value, str) else value:
        case None | True | "true" | "1" | "end" | "right" | "":
            return "start", False
        case "start" | "left":
            return "end", False
        case False | "false" | "0" | "none":
            return "start", True
    raise InvalidRequestError("must be a boolean, or one of NONE, END, START", field=name)


def _kept(name: str, side: str) -> Literal["start", "end"]:
    match side.strip().lower():
        case "right" | "":
            return "start"
        case "left":
            return "end"
    raise InvalidRequestError("must be left or right", field=name)
