"""Decoder: words around an instruction, a query and a document in one sequence; one logit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import InvalidRequestError
from webapp.engine.artifact import Manifest
from webapp.engine.base import Forward
from webapp.engine.recipes import DOCUMENT, Recipe
from webapp.engine.tokenizer import TextEncoder, TokenIds, batch_rows

MOST_OF_ROOM = 3, 4
"""The share of a sequence that instruction and query may take; the document gives way to them that far."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its instruction and their words, encoded once a request."""

    ids: NDArray[np.int32]
    cut: bool
    """Whether the end of the query was cut off."""


class DecoderSession:
    """See `webapp.domain.types.Session`."""

    query_takes_room = True

    def __init__(self, manifest: Manifest, texts: TextEncoder, forward: Forward) -> None:
        assert manifest.recipe is not None  # noqa: S101 - for mypy: the loader asks
        self._recipe: Recipe = manifest.recipe
        self._template = manifest.template
        self._texts = texts
        self._forward = forward
        (self._after,) = texts.encode([self._recipe.document.partition(DOCUMENT)[2]])

    def encode_query(self, query: str, instruction: str = "") -> Query:
        """Return the tokens of instruction and query with their words; a long query loses its end.

        Raises:
            InvalidRequestError: the instruction leaves no room for a query.
        """
        most = self._template.room_tokens * MOST_OF_ROOM[0] // MOST_OF_ROOM[1]
        (ids,) = self._texts.encode([self._recipe.of_query(query, instruction)])
        if len(ids) <= most and not self._texts.has_unread_rest(query):
            return Query(ids, cut=False)
        stops = [0, *self._texts.offsets(query)[:, 1].tolist()]
        kept = most - self._texts.count(self._recipe.of_query("", instruction))
        while kept > 0:
            shorter = query[: stops[min(kept, len(stops) - 1)]]
            (ids,) = self._texts.encode([self._recipe.of_query(shorter, instruction)])
            if len(ids) <= most:
                return Query(ids, cut=True)
            kept -= len(ids) - most
        raise InvalidRequestError(
            f"must leave room for query and document; the model reads {self._template.max_length_tokens} tokens",
            field="instruction",
        )

    def encode_documents(
        self, query: Query, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Return token ids, each document's end cut off where it does not fit beside the query; see the protocol."""
        room = self._template.room_tokens - len(query.ids)
        ids = self._texts.encode([self._recipe.of_document(document) for document in documents])
        truncated = np.full(len(ids), query.cut)
        for index, document in enumerate(ids):
            if len(document) > room:
                truncated[index] = True
                ids[index] = np.concatenate([document[: room - len(self._after)], self._after])
            elif self._texts.has_unread_rest(documents[index]):
                truncated[index] = True
        lengths = np.fromiter((len(document) for document in ids), np.int32, len(ids))
        return ids, lengths + self._template.special_tokens + len(query.ids), truncated

    def score(self, pairs: Sequence[tuple[Query, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Return logits, shape [pairs]."""
        template = self._template
        rows: list[tuple[TokenIds, ...]] = []
        for query, document in pairs:
            first, second = (document, query.ids) if self._recipe.document_first else (query.ids, document)
            rows.append((template.prefix, first, template.middle, second, template.suffix))
        input_ids, mask = batch_rows(rows, template, length)
        logits = self._forward(input_ids, mask, np.zeros_like(input_ids))
        return np.array(logits[:, 0], dtype=np.float32)
