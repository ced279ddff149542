"""Framing: refuse a model whose texts we would cut, frame or batch in another way than its makers do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import InvalidRequestError, SetupError
from webapp.domain.types import Session
from webapp.engine.base import encode_pair, score_pair
from webapp.engine.loader import ModelEngine
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.check_texts import (
    DOCUMENTS,
    INSTRUCTION,
    QUERIES,
    Progress,
    chars_of,
    check_pairs,
    cut_pairs,
    cuts_the_question,
    reference,
)
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.recipes import known_recipes

LARGEST_RAW_ERROR = 1e-4
"""Of our own way to frame, cut and batch texts, in float32: a share of the larger of 1 and the largest raw score."""

LONGEST_FRAMED_TOKENS = 640
"""Longer pairs are not scored a second time in float32, by our own template: their tokens are compared."""

ROWS_A_BATCH = 8

MANY_CHARS = 200
"""No pair of so few characters is cut by a model."""


def check_framing(engine: ModelEngine, original: SourceModel, report_share: ReportShare = lambda _share: None) -> None:
    """Refuse a model whose scores by our own template, tokenizer and batches differ from the original's.

    Both sides compute in float32 with the same weights. So only what we make of the texts can differ, which the looser
    limits of int8 would hide. Of long texts the tokens are compared, which costs nothing.

    Args:
        engine: of the original in torch, started.
        original: gives the right scores, by its makers' own way from texts to scores.
        report_share: takes the share that is done.

    Raises:
        SetupError: it says where they differ.
    """
    session = engine.open_session()
    if original.recipe is not None:
        _check_room(session, original)
    heeded = [pair for pair in check_pairs(original) if not cuts_the_question(session, original, pair)]
    cut = [pair for pair in cut_pairs(original) if not cuts_the_question(session, original, pair)]
    instructed: list[tuple[str, str]] = []
    if original.recipe is not None and original.recipe.takes_instructions:
        instructed = [(query, document) for query in QUERIES for document in DOCUMENTS[:3]]
    _check_tokens(engine, original, [*heeded, *cut])
    _check_tokens(engine, original, instructed, INSTRUCTION)
    encoded = [encode_pair(session, query, document) for query, document in heeded]
    places = [place for place, (*_, tokens) in enumerate(encoded) if tokens <= LONGEST_FRAMED_TOKENS]
    pairs, encoded = [heeded[place] for place in places], [encoded[place] for place in places]
    progress = Progress([*pairs, *instructed], 3, report_share)
    right, limit = _check_alone(engine, original, pairs, progress)
    if instructed:
        _check_alone(engine, original, instructed, progress, INSTRUCTION)
    for batch in _unlike([tokens for *_, tokens in encoded]):
        rows = [encoded[place] for place in batch]
        together = session.score([(query, ids) for query, ids, _ in rows], max(tokens for *_, tokens in rows))
        progress.step([pairs[place] for place in batch])
        if not (np.abs(together - right[batch]) <= limit).all():
            worst = float(np.abs(together - right[batch]).max())
            raise _depends_on_company(original, worst)


def _check_room(session: Session, original: SourceModel) -> None:
    """Refuse a length at which a decoder would read only a part of short questions.

    Raises:
        SetupError: it is too short.
    """
    instructions = ["", INSTRUCTION] if original.recipe and original.recipe.takes_instructions else [""]
    for query, instruction in itertools.product(QUERIES, instructions):
        try:
            cut = session.encode_query(query, instruction).cut
        except InvalidRequestError:
            cut = True
        if cut:
            raise SetupError(
                f"RERANK_MAX_LENGTH_TOKENS: {original.max_length_tokens} leaves too little room for short questions"
                " beside the model's own words; raise it"
            )


def _check_tokens(
    engine: ModelEngine, original: SourceModel, pairs: Sequence[tuple[str, str]], instruction: str = ""
) -> None:
    """Compare what both sides would compute.

    Raises:
        SetupError: it is not the same.
    """
    if original.transformer is None:
        return
    for query, document in pairs:
        if _tokens(engine, query, document, instruction) != original.tokens(query, document, instruction):
            raise SetupError(
                f"{original.layout.directory}: the model reads other tokens than the original; the likely cause:"
                f" {_likely_cause(query, document, instruction)}; {_remedy(original)}"
            )


def _check_alone(
    engine: ModelEngine,
    original: SourceModel,
    pairs: Sequence[tuple[str, str]],
    progress: Progress,
    instruction: str = "",
) -> tuple[NDArray[np.float32], float]:
    """Compare scores of pairs, one a batch, with the original's; return these, and the largest error to accept.

    Raises:
        SetupError: they differ.
    """
    session = engine.open_session()
    right = reference(original, pairs, progress.step, instruction)
    limit = LARGEST_RAW_ERROR * max(1.0, float(np.abs(right).max()))
    alone = np.empty(len(pairs), np.float32)
    for place, (query, document) in enumerate(pairs):
        alone[place] = score_pair(session, query, document, instruction=instruction)
        progress.step(pairs[place : place + 1])
    wrong = ~(np.abs(alone - right) <= limit)  # NaN is wrong, too
    if wrong.any():
        first = int(wrong.argmax())
        by_company = abs(right[first] - original.reference_alone(*pairs[first], instruction))
        if by_company > limit:
            raise _depends_on_company(original, float(by_company))
        raise SetupError(
            f"{original.layout.directory}: {int(wrong.sum())} of {len(pairs)} scores are not the original's, by up to"
            f" {float(np.abs(alone - right).max()):.2g}, of the same tokens; the likely cause: its head or its layers"
            f" compute something that we don't (a scale, a cap, a pooling); {_remedy(original)}"
        )
    return right, limit


def _depends_on_company(original: SourceModel, by: float) -> SetupError:
    return SetupError(
        f"{original.layout.directory}: scores depend on what else is in a batch, by up to {by:.2g}; the likely cause:"
        f" the model does not heed its attention mask; {_remedy(original)}"
    )


def _remedy(original: SourceModel) -> str:
    """Return what the operator can do about a model that is refused. PURE."""
    own = original.recipe is not None and bool(original.recipe.name) and original.recipe not in known_recipes()
    return (
        "mend the file that RERANK_RECIPE names, or name another RERANK_MODEL" if own else "name another RERANK_MODEL"
    )


def _likely_cause(query: str, document: str, instruction: str) -> str:
    """Return why a pair is read in another way than the original reads it. PURE."""
    if instruction:
        return "an instruction is framed in another way"
    if document.strip() and chars_of([(query, document)]) < MANY_CHARS:
        return "its files name a prompt, a length or options of the tokenizer that we don't heed"
    return "long or blank texts are cut or framed in another way"


def _tokens(engine: ModelEngine, query: str, document: str, instruction: str) -> list[list[int]]:
    """Return the token ids that our sessions give a model to compute, a list an input."""
    rows: list[list[int]] = []

    def record(input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        del types
        rows.extend(ids[counts > 0].tolist() for ids, counts in zip(input_ids, mask, strict=True))
        return np.ones((len(input_ids), 8), np.float32)

    score_pair(engine.open_session(record), query, document, instruction=instruction)
    return rows


def _unlike(lengths: Sequence[int]) -> list[list[int]]:
    """Return the places of a batch each: the shorter half as it comes, and the longest beside the shortest. PURE."""
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    short = sorted(by_length[: -(-len(lengths) // 2)])
    batches = [short[at : at + ROWS_A_BATCH] for at in range(0, len(short), ROWS_A_BATCH)]
    return [*batches, [by_length[0], by_length[-1]]]
