"""Long texts cut, or divided into windows, as a request asks; and windows' scores put together again. PURE.

Works on texts, not on tokens: what is cut here is tokenised once more by the engine, so that caching and
scheduling know nothing of it. The seams may differ by a token from those of a tokenizer's own truncation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import InvalidRequestError
from webapp.domain.types import RerankRequest, Scored, Truncation
from webapp.engine.base import MOST_CHARS, Texts

OVERLAP_SHARE = 8
"""Neighbouring windows share an eighth of their length, so that a sentence on a seam is whole in one of them."""

CHARS_PER_TOKEN_BOUND = 16
"""Of a text longer than this for each token that may be kept, only that much is tokenised."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """What is scored in place of a request's own texts."""

    request: RerankRequest
    """Its documents are the windows."""
    starts: NDArray[np.intp]
    """The first window of each document, shape [documents]."""
    spans: Sequence[tuple[int, int]]
    """Characters of its document that each window holds."""
    cut: NDArray[np.bool_]
    """Whether a part of the document lies in no window, shape [documents]."""
    query_cut: bool


def fit(request: RerankRequest, texts: Texts, *, max_length_tokens: int, max_windows: int) -> Truncated | None:
    """Cut and divide.

    Args:
        request: its `fitting` says how.
        texts: the engine's tokenizer.
        max_length_tokens: the model's limit for a pair.
        max_windows: most windows that all documents together may make.

    Returns:
        None when the engine's own truncation does all that is asked.

    Raises:
        InvalidRequestError: there would be too many windows.
    """
    wish = request.fitting
    if wish is None or not _asks_for_more(wish, max_length_tokens):
        return None
    room = min(max_length_tokens, wish.max_pair_tokens or max_length_tokens) - texts.special_tokens
    room = max(1, room)
    most = min(wish.max_document_tokens or max_length_tokens * wish.windows, max_length_tokens * wish.windows)
    places = [_Places.of(document, texts, most, wish.keep) for document in request.documents]
    query = _Places.of(request.query, texts, wish.max_query_tokens or max_length_tokens, wish.keep)
    if texts.query_takes_room:
        longest = max((place.count for place in places), default=0)
        query_room = min(query.count, max(room // 2, room - longest))
        room -= query_room
    else:
        query_room = min(query.count, room)
    windows: list[str] = []
    spans: list[tuple[int, int]] = []
    starts, cut = [], []
    for document, place in zip(request.documents, places, strict=True):
        ranges = _ranges(place.count, room, wish)
        starts.append(len(windows))
        cut.append(place.cut or ranges[-1][1] < place.count)
        for first, stop in ranges:
            span = place.span(first, stop)
            spans.append(span)
            windows.append(document[slice(*span)])
        if len(windows) > max_windows:
            raise InvalidRequestError(
                f"the documents make more than {max_windows} windows; lower it", field="max_chunks_per_doc"
            )
    kept_query = request.query[slice(*query.span(0, query_room))]
    return Truncated(
        replace(request, query=kept_query, documents=windows, fitting=None),
        np.array(starts, np.intp),
        spans,
        np.array(cut, np.bool_),
        query.cut or query_room < query.count,
    )


def collapse(scored: Scored, fitted: Truncated) -> tuple[Scored, list[tuple[int, int] | None]]:
    """A document's score is that of its best window.

    Returns:
        Scores of the documents; of each divided document the characters of the window that counted.
    """
    stops = np.append(fitted.starts[1:], len(scored.logits))
    best = np.array(
        [start + int(np.argmax(scored.logits[start:stop])) for start, stop in zip(fitted.starts, stops, strict=True)],
        np.intp,
    )
    single = stops - fitted.starts == 1
    spans = [None if alone else fitted.spans[index] for index, alone in zip(best, single, strict=True)]
    truncated = fitted.cut | (scored.truncated[best] & single)  # a window may lose a token at its seam: no matter
    return replace(scored, logits=scored.logits[best], truncated=truncated), spans


def too_long(request: RerankRequest, scored: Scored, texts: Texts, *, max_length_tokens: int) -> InvalidRequestError:
    """Names the query or the first document that the model could not read whole, and its length."""
    if not texts.query_takes_room and not scored.truncated.any():
        tokens = texts.query_tokens(request.query) + texts.special_tokens
        return InvalidRequestError(
            f"must have at most {max_length_tokens} tokens, it has {tokens}; the request forbids to cut it",
            field="query",
        )
    index = int(scored.truncated.argmax())
    together = [request.documents[index], *([request.query] if texts.query_takes_room else [])]
    tokens = sum(len(texts.offsets(text)) for text in together) + texts.special_tokens
    return InvalidRequestError(
        f"must have at most {max_length_tokens} tokens with its query, it has {tokens}; the request forbids to cut it",
        field=f"documents[{index}]",
    )


@dataclass(frozen=True, slots=True)
class QueryRead:
    """What is read of a query."""

    tokens: int
    """Beside those of its pairs: of a query that is read by itself, special tokens counted; else 0."""
    cut: bool


def query_read(query: str, scored: Scored, texts: Texts, *, max_length_tokens: int) -> QueryRead:
    """What the engine read of a query.

    A query that shares the model's length with its documents keeps at least half of it, and loses only what is beyond
    that, beside documents that leave it no more room.
    """
    room = max_length_tokens - texts.special_tokens
    if texts.query_takes_room:
        return QueryRead(0, bool(scored.truncated.any()) and texts.query_tokens(query) > room // 2)
    tokens = texts.query_tokens(query)
    return QueryRead(texts.special_tokens + min(tokens, room), tokens > room)


def documents_cut(
    request: RerankRequest, scored: Scored, order: Sequence[int], texts: Texts, *, max_length_tokens: int
) -> list[bool]:
    """Which of these documents were cut, where their query was cut, too: beside it, a short one is read whole.

    Args:
        request: what was scored.
        scored: which pairs were cut.
        order: indexes of the documents.
        texts: the engine's tokenizer.
        max_length_tokens: the model's limit for a pair.
    """
    room = max_length_tokens - texts.special_tokens
    query = texts.query_tokens(request.query)

    def cut(document: str) -> bool:
        tokens = len(texts.offsets(document))
        return tokens > (room - room // 2 if tokens >= query else room // 2)  # an odd token is the longer one's

    return [bool(scored.truncated[index]) and cut(request.documents[index]) for index in order]


def _asks_for_more(wish: Truncation, max_length_tokens: int) -> bool:
    """Whether the engine, which cuts ends off at the model's limit, would not do by itself."""
    limits = (wish.max_query_tokens, wish.max_document_tokens, wish.max_pair_tokens)
    narrower = any(limit is not None and limit < max_length_tokens for limit in limits)
    return narrower or wish.windows > 1 or wish.keep == "end"


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the tokens of a text that may be kept lie in it."""

    offsets: NDArray[np.int32]
    length_chars: int
    base: int
    """Characters left out before the part that was tokenised."""
    cut: bool

    @classmethod
    def of(cls, text: str, texts: Texts, most: int, keep: str) -> _Places:
        """At most `most` tokens, from the start or the end."""
        bound = (most + CHARS_PER_TOKEN_BOUND) * CHARS_PER_TOKEN_BOUND
        base = 0
        part = text
        if len(text) > bound:
            base = len(text) - bound if keep == "end" else 0
            part = text[base : base + bound]
        offsets = texts.offsets(part)
        if len(offsets) < most and len(part) < len(text):  # unusually few tokens, such as a megabyte of spaces
            base = max(0, len(text) - MOST_CHARS) if keep == "end" else 0
            part = text[base : base + MOST_CHARS]
            offsets = texts.offsets(part)
        cut = len(offsets) > most or bool(text[:base].strip() or text[base + len(part) :].strip())
        if len(offsets) > most:
            offsets = offsets[-most:] if keep == "end" else offsets[:most]
        return cls(offsets, len(text), base, cut)

    @property
    def count(self) -> int:
        return len(self.offsets)

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """Characters of the tokens [first, stop); all of them when nothing was cut."""
        if not self.cut and first == 0 and stop >= self.count:
            return 0, self.length_chars
        if first >= stop:
            return 0, 0
        return self.base + int(self.offsets[first, 0]), self.base + int(self.offsets[stop - 1, 1])


def _ranges(count: int, room: int, wish: Truncation) -> list[tuple[int, int]]:
    """Tokens [first, stop) of each window of a document."""
    if count <= room:
        return [(0, count)]
    if wish.windows == 1:
        return [(count - room, count) if wish.keep == "end" else (0, room)]
    overlap = room // OVERLAP_SHARE if wish.overlap_tokens is None else wish.overlap_tokens
    step = max(1, room - overlap)
    firsts = list(range(0, count - room + step, step))[: wish.windows]
    # The last window is moved back rather than left short: more context, same price.
    return [(min(first, count - room), min(first, count - room) + room) for first in firsts]
