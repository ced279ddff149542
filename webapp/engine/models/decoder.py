"""Decoder: words around an instruction, a query and a document in one sequence; one logit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import InvalidRequestError, SetupError
from webapp.engine.artifact import Manifest, Template
from webapp.engine.base import MOST_CHARS, Forward, read_enough
from webapp.engine.recipes import DOCUMENT, Recipe
from webapp.engine.tokenizer import TextEncoder, TokenIds, batch_rows

MOST_OF_ROOM = 3, 4
"""The share of a sequence that instruction and query may take; the document gives way to them that far."""

ANY_QUERY = "query"
"""A default instruction leaves room for this one at least."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its instruction and their words, encoded once a request."""

    ids: NDArray[np.int32]
    cut: bool
    """Whether the end of the query was cut off."""


class DecoderTexts(TextEncoder):
    """The tokenizer of a decoder, which knows the words around query and document."""

    def __init__(self, path: Path, template: Template, recipe: Recipe) -> None:
        """Read a tokenizer.

        Args:
            path: its tokenizer.json.
            template: what stands around query and document with their words.
            recipe: has these words.

        Raises:
            SetupError: the file is damaged.
        """
        super().__init__(path, template, query_takes_room=True)
        self._template = template
        self.recipe = recipe

    def query_tokens(self, query: str, instruction: str = "") -> int:
        """Return how many tokens the first `MOST_CHARS` of a query have, with its instruction and their words."""
        return self.count(self.recipe.of_query(query[:MOST_CHARS], instruction))

    def document_tokens(self, document: str) -> int:
        """Return how many tokens the first `MOST_CHARS` of a document have, with its words."""
        return self.count(self.recipe.of_document(document[:MOST_CHARS]))

    def split_room(self, query: int, document: int, room: int) -> tuple[int, int]:
        """Return how many tokens are kept: the document gives way, but for a share of the room."""
        query = min(query, room * MOST_OF_ROOM[0] // MOST_OF_ROOM[1])
        return query, min(document, room - query)

    def check_default(self) -> None:
        """Check the default instruction.

        Raises:
            SetupError: it leaves no room for texts.
        """
        room = self._template.room_tokens
        kept, _ = self.split_room(room, room, room)
        after = self.count(self.recipe.document.partition(DOCUMENT)[2])
        if room - kept <= after:
            raise SetupError(
                f"the recipe has {after} tokens after a document, which leaves none for texts; shorten them, or raise"
                " RERANK_MAX_LENGTH_TOKENS"
            )
        try:
            self.read_query(ANY_QUERY, "")
        except InvalidRequestError as error:
            raise SetupError(
                f"the instruction {error.message}; shorten RERANK_INSTRUCTION, or raise RERANK_MAX_LENGTH_TOKENS"
            ) from error

    def read_query(self, query: str, instruction: str) -> Query:
        """Return the tokens of instruction and query with their words; a long query loses its end.

        Raises:
            InvalidRequestError: the instruction leaves no room for a query.
        """
        room = self._template.room_tokens
        most, _ = self.split_room(room, room, room)
        readable = query[: MOST_CHARS - len(self.recipe.of_query("", instruction))]  # its words are read, too
        (ids,) = self.encode([self.recipe.of_query(readable, instruction)])
        if len(ids) <= most and not query[len(readable) :].strip():
            return Query(ids, cut=False)
        (words,) = self.encode([self.recipe.of_query("", instruction)])
        kept = most - len(words)
        _, offsets = read_enough(query, most, "start", self.offsets)
        stops = [0, *offsets[:most, 1].tolist()]
        while kept > 0:
            shorter = query[: stops[min(kept, len(stops) - 1)]]
            (ids,) = self.encode([self.recipe.of_query(shorter, instruction)])
            if len(ids) <= most:
                return Query(ids, cut=True)
            kept -= len(ids) - most
        raise InvalidRequestError(
            f"must leave room for query and document; the model reads {self._template.max_length_tokens} tokens",
            field="instruction",
        )


class DecoderSession:
    """See `webapp.domain.types.Session`."""

    def __init__(self, manifest: Manifest, texts: DecoderTexts, forward: Forward) -> None:
        self._recipe = texts.recipe
        self._template = manifest.template
        self._texts = texts
        self._forward = forward
        (self._after,) = texts.encode([self._recipe.document.partition(DOCUMENT)[2]])

    def encode_query(self, query: str, instruction: str = "") -> Query:
        """Return the tokens of instruction and query with their words; a long query loses its end.

        Raises:
            InvalidRequestError: the instruction leaves no room for a query.
        """
        return self._texts.read_query(query, instruction)

    def encode_documents(
        self, query: Query, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Return token ids, each document's end cut off where it does not fit beside the query; see the protocol."""
        room = self._template.room_tokens - len(query.ids)
        most = MOST_CHARS - len(self._recipe.of_document(""))  # its words are read, too
        ids = self._texts.encode([self._recipe.of_document(document[:most]) for document in documents])
        truncated = np.full(len(ids), query.cut)
        for index, document in enumerate(ids):
            if len(document) > room:
                ids[index] = np.concatenate([document[: room - len(self._after)], self._after])
            if len(document) > room or documents[index][most:].strip():
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
        # What comes before a document is the same for others of the request.
        types = np.ones_like(input_ids)
        for row, parts in enumerate(rows):
            shared = parts[:1] if self._recipe.document_first else parts[:3]
            types[row, : sum(map(len, shared))] = 0
        logits = self._forward(input_ids, mask, types)
        return np.array(logits[:, 0], dtype=np.float32)
