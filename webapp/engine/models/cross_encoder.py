"""Cross-encoder: query and document in one sequence, one logit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from webapp.engine.artifact import Manifest
from webapp.engine.base import Forward
from webapp.engine.tokenizer import TextEncoder, TokenIds, batch_rows, split_room


@dataclass(frozen=True)
class Query:
    """A query, encoded once a request."""

    text: str
    ids: NDArray[np.int32]
    """Its tokens, at most one more than a whole pair may hold."""
    texts: TextEncoder

    @cached_property
    def tokens(self) -> int:
        """Return how many tokens the whole text has: a long one is read once, and not for each document."""
        return self.texts.count(self.text)


class CrossEncoderSession:
    """See `webapp.domain.types.Session`."""

    query_takes_room = True

    def __init__(self, manifest: Manifest, texts: TextEncoder, forward: Forward) -> None:
        self._template = manifest.template
        self._texts = texts
        self._forward = forward

    def encode_query(self, query: str, instruction: str = "") -> Query:
        """Return the query's tokens; how many of them are used depends on the document."""
        del instruction  # it has no place
        return Query(query, self._texts.encode([query])[0], self._texts)

    def encode_documents(
        self, query: Query, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Return token ids, cut to fit beside the query, and lengths; see the protocol."""
        room = self._template.room_tokens
        ids = self._texts.encode(documents)
        lengths = np.empty(len(ids), np.int32)
        truncated = np.zeros(len(ids), np.bool_)
        for index, document in enumerate(ids):
            sizes = len(query.ids), len(document)
            if min(sizes) > room:
                # Both were cut short, but the longer of the two is due the odd token of the room.
                sizes = query.tokens, self._texts.count(documents[index])
            kept_query, kept = split_room(*sizes, room)
            lengths[index] = self._template.special_tokens + kept_query + kept
            if sum(sizes) > room:
                truncated[index] = True
                ids[index] = self._texts.kept(document, kept).copy()  # a slice would keep the whole alive
            elif self._texts.has_unread_rest(documents[index]):
                truncated[index] = True
        return ids, lengths, truncated

    def score(self, pairs: Sequence[tuple[Query, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Return logits, shape [pairs]."""
        template = self._template
        rows: list[tuple[TokenIds, ...]] = []
        for query, document in pairs:
            # A document was cut to fit; a query that is still too long gives way to it.
            kept_query = self._texts.kept(query.ids, template.room_tokens - len(document))
            rows.append((template.prefix, kept_query, template.middle, document, template.suffix))
        input_ids, mask = batch_rows(rows, template, length)
        types = np.zeros_like(input_ids)
        for row, parts in enumerate(rows):
            end = sum(map(len, parts))
            types[row, end - len(parts[-2]) - len(parts[-1]) : end] = template.document_type
        logits = self._forward(input_ids, mask, types)
        return np.array(logits[:, 0], dtype=np.float32)
