"""Truncation: long texts are cut, or divided into windows, and windows' scores put together again. PURE.

Works on texts, not on tokens: the engine tokenises the cut texts once more, so that caching and scheduling know
nothing of it. The cuts may differ by a token from those of a tokenizer's own truncation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import InvalidRequestError
from webapp.domain.types import Kept, RerankRequest, Scored, Truncation
from webapp.engine.base import Texts, read_enough

OVERLAP_SHARE = 8
"""Neighbouring windows share an eighth of their length, so that a sentence at a cut is whole in one of them."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """The texts that are scored in place of a request's own."""

    request: RerankRequest
    """Its documents are the windows."""
    starts: NDArray[np.intp]
    """The first window of each document, shape [documents]."""
    spans: Sequence[tuple[int, int]]
    """Characters of its document that each window holds."""
    cut: NDArray[np.bool_]
    """Whether a part of the document lies in no window, shape [documents]."""
    query_cut: bool


@dataclass(frozen=True, slots=True)
class QueryRead:
    """How much of a query was read."""

    tokens: int
    """Tokens of a query that is read by itself, special tokens counted; else 0: its pairs count them."""
    cut: bool


@dataclass(frozen=True, slots=True)
class Truncator:
    """Truncation for one model."""

    texts: Texts
    """The engine's tokenizer."""
    max_length_tokens: int
    """The model's limit for a pair."""

    def truncate(self, request: RerankRequest, max_windows: int) -> Truncated | None:
        """Cut and divide the texts of a request.

        Args:
            request: its `truncation` says how.
            max_windows: most windows that all documents together may make.

        Returns:
            None when the engine's own truncation does all that is asked.

        Raises:
            InvalidRequestError: there would be too many windows, the longest pair has no room for texts, or a text is
                longer than the model reads and the request forbids to cut it.
        """
        texts, limit, options = self.texts, self.max_length_tokens, request.truncation
        if options is None or not _asks_for_more(options, limit, texts.keeps):
            return None
        keep, words = options.keep or texts.keeps, self._words(request)
        room = max(1, min(limit, options.max_pair_tokens or limit) - texts.special_tokens)
        taken, least = (sum(words), 2) if texts.query_takes_room else (max(words), 1)
        if options.max_pair_tokens and taken and room < taken + least:
            taken += texts.special_tokens
            message = f"must be at least {taken + least}, for the model's own words take {taken} tokens"
            raise InvalidRequestError(message, field="truncate_prompt_tokens")
        in_windows = limit * options.windows
        most = min(options.max_document_tokens or in_windows, in_windows)
        places = [_Places.of(document, texts, most, keep) for document in request.documents]
        query = _Places.of(request.query, texts, options.max_query_tokens or limit, keep)
        if texts.query_takes_room:
            longest = max((place.count for place in places), default=0)
            query_room = texts.split_room(words[0] + query.count, words[1] + longest, room)[0] - words[0]
            query_room = max(min(1, query.count), query_room)  # a score without any of it would be wrong
            room = max(1, room - query_room - sum(words))
        else:
            query_room, room = min(query.count, max(1, room - words[0])), max(1, room - words[1])
        if options.strict and query.lacks(query_room, options.max_query_tokens or limit + 1):
            raise self._too_long(request, None)
        windows: list[str] = []
        spans: list[tuple[int, int]] = []
        starts, cut = [], []
        for index, (document, place) in enumerate(zip(request.documents, places, strict=True)):
            ranges = _ranges(place.count, room, keep, options)
            read = ranges[-1][1] - ranges[0][0]
            if options.strict and place.lacks(read, options.max_document_tokens or in_windows + 1):
                raise self._too_long(request, index)
            starts.append(len(windows))
            cut.append(place.cut or read < place.count)
            for first, stop in ranges:
                span = place.span(first, stop)
                spans.append(span)
                windows.append(document[slice(*span)])
            if len(windows) > max_windows:
                message = f"the documents make more than {max_windows} windows; lower it"
                raise InvalidRequestError(message, field="max_chunks_per_doc")
        first = query.count - query_room if keep == "end" else 0
        kept_query = request.query[slice(*query.span(first, first + query_room))]
        return Truncated(
            replace(request, query=kept_query, documents=windows, truncation=None),
            np.array(starts, np.intp),
            spans,
            np.array(cut, np.bool_),
            query.cut or query_room < query.count,
        )

    def _words(self, request: RerankRequest) -> tuple[int, int]:
        """Return how many tokens the model's words around query and document take: prompts, or an instruction's."""
        return self.texts.query_tokens("", request.instruction or ""), self.texts.document_tokens("")

    def _query_tokens(self, request: RerankRequest) -> int:
        return self.texts.query_tokens(request.query, request.instruction or "")

    def query_read(self, request: RerankRequest, scored: Scored) -> QueryRead:
        """Return how much of a query the engine read.

        A query that shares the model's length with its documents keeps a part of it. It loses only tokens beyond that,
        beside documents that leave it no more room.
        """
        texts = self.texts
        room = self.max_length_tokens - texts.special_tokens
        if texts.query_takes_room:
            if not scored.truncated.any():
                return QueryRead(0, cut=False)
            tokens = self._query_tokens(request)
            return QueryRead(0, texts.split_room(tokens, room, room)[0] < tokens)
        tokens = texts.query_tokens(request.query)
        return QueryRead(texts.special_tokens + min(tokens, room), tokens > room)

    def too_long(self, request: RerankRequest, scored: Scored) -> InvalidRequestError:
        """Return an error with the query or first document that the model could not read whole, and its length."""
        alone = not self.texts.query_takes_room and not scored.truncated.any()
        return self._too_long(request, None if alone else int(scored.truncated.argmax()))

    def _too_long(self, request: RerankRequest, index: int | None) -> InvalidRequestError:
        """Return an error that names a document, or the query (None), and its length."""
        texts, limit = self.texts, self.max_length_tokens
        tokens, where, what = texts.special_tokens, "query", ""
        if index is None or texts.query_takes_room:
            tokens += self._query_tokens(request)
        if index is not None:
            tokens += texts.document_tokens(request.documents[index])
            where, what = f"documents[{index}]", " with its query" if texts.query_takes_room else ""
            if request.truncation and request.truncation.windows > 1:
                what += f", in each of {request.truncation.windows} windows"
        message = f"must have at most {limit} tokens{what}, it has {tokens}; the request forbids to cut it"
        return InvalidRequestError(message, field=where)

    def documents_cut(self, request: RerankRequest, scored: Scored, order: Sequence[int]) -> list[bool]:
        """Return which documents were cut, where their query was cut too: beside it, a short one is read whole.

        Args:
            request: what was scored.
            scored: which pairs were cut.
            order: indexes of the documents.
        """
        texts = self.texts
        room = self.max_length_tokens - texts.special_tokens
        query = self._query_tokens(request)

        def cut(document: str) -> bool:
            tokens = texts.document_tokens(document)
            return texts.split_room(query, tokens, room)[1] < tokens

        return [bool(scored.truncated[index]) and cut(request.documents[index]) for index in order]


def collapse(scored: Scored, truncated: Truncated) -> tuple[Scored, list[tuple[int, int] | None]]:
    """Give each document the score of its best window.

    Returns:
        Scores of the documents; for each divided document the characters of its best window, else None.
    """
    stops = np.append(truncated.starts[1:], len(scored.logits))
    best = np.array(
        [
            start + int(np.argmax(scored.logits[start:stop]))
            for start, stop in zip(truncated.starts, stops, strict=True)
        ],
        np.intp,
    )
    single = stops - truncated.starts == 1
    spans = [None if alone else truncated.spans[index] for index, alone in zip(best, single, strict=True)]
    cut = truncated.cut | (scored.truncated[best] & single)  # a window may lose a token at a cut: that does not matter
    return replace(scored, logits=scored.logits[best], truncated=cut), spans


def _asks_for_more(options: Truncation, max_length_tokens: int, keeps: Kept) -> bool:
    """Return whether the engine, which cuts texts at the model's limit, would not do by itself."""
    limits = (options.max_query_tokens, options.max_document_tokens, options.max_pair_tokens)
    narrower = any(limit is not None and limit < max_length_tokens for limit in limits)
    return narrower or options.windows > 1 or options.keep not in (None, keeps)


@dataclass(frozen=True, slots=True)
class _Places:
    """Positions in a text of the tokens that may be kept."""

    offsets: NDArray[np.int32]
    length_chars: int
    base: int
    """Characters left out before the part that was tokenised."""
    cut: bool

    @classmethod
    def of(cls, text: str, texts: Texts, most: int, keep: Kept) -> _Places:
        """Find at most `most` tokens, from the start or the end."""
        part, offsets = read_enough(text, most, keep, texts.offsets)
        base = len(text) - len(part) if keep == "end" else 0
        cut = len(offsets) > most or bool(text[:base].strip() or text[base + len(part) :].strip())
        if len(offsets) > most:
            offsets = offsets[-most:] if keep == "end" else offsets[:most]
        return cls(offsets, len(text), base, cut)

    @property
    def count(self) -> int:
        return len(self.offsets)

    def lacks(self, tokens: int, wanted: int) -> bool:
        """Return whether less is read of the text than is wanted of it.

        Args:
            tokens: so many are read.
            wanted: no more need be read.
        """
        return tokens < min(self.count, wanted) or (self.cut and self.count < wanted)

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """Return the characters of the tokens [first, stop); all of the text when nothing was cut."""
        if not self.cut and first == 0 and stop >= self.count:
            return 0, self.length_chars
        if first >= stop:
            return 0, 0
        return self.base + int(self.offsets[first, 0]), self.base + int(self.offsets[stop - 1, 1])


def _ranges(count: int, room: int, keep: Kept, options: Truncation) -> list[tuple[int, int]]:
    """Return the tokens [first, stop) of each window of a document."""
    if count <= room:
        return [(0, count)]
    if options.windows == 1:
        return [(count - room, count) if keep == "end" else (0, room)]
    overlap = room // OVERLAP_SHARE if options.overlap_tokens is None else options.overlap_tokens
    step = max(1, room - overlap)
    firsts = list(range(0, count - room + step, step))[: options.windows]
    # The last window is moved back rather than left short: more context, same price.
    ranges = [(min(first, count - room), min(first, count - room) + room) for first in firsts]
    # Where the end is kept, they are laid out from there.
    return ranges if keep == "start" else [(count - stop, count - first) for first, stop in reversed(ranges)]
