"""Bi-encoder: query and document become vectors apart from each other; the score is how similar these are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from webapp.engine.artifact import Manifest
from webapp.engine.base import Forward
from webapp.engine.tokenizer import TextEncoder, batch_rows

Vector = NDArray[np.float32]


def _sums(numbers: Vector) -> NDArray[np.float64]:
    """Return the sum of each row, from its first number to its last: all processors then give the same bits.

    The order of numpy's own sums follows from the width of the processor's registers.
    """
    return np.asarray(np.cumsum(numbers, axis=1, dtype=np.float64)[:, -1])


def _dots(left: Vector, right: Vector) -> NDArray[np.float64]:
    return _sums(np.multiply(left, right, dtype=np.float64))


def _lengths(vectors: Vector) -> NDArray[np.float64]:
    return np.sqrt(_dots(vectors, vectors))


SIMILARITIES: dict[str, Callable[[Vector, Vector], NDArray[np.float64]]] = {
    "cosine": _dots,  # of unit vectors
    "dot": _dots,
    "euclidean": lambda left, right: -_lengths(left - right),
    "manhattan": lambda left, right: -_sums(np.abs(left - right)),
}
"""sentence-transformers' functions, of two arrays of shape [pairs, width]; a distance is negative."""


class EmbeddingSession:
    """See `webapp.domain.types.Session`; an encoded query is its vector."""

    query_takes_room = False

    def __init__(self, manifest: Manifest, texts: TextEncoder, forward: Forward) -> None:
        self._template = manifest.template
        self._query_prompt, self._document_prompt = manifest.prompts
        self._unit_vectors = manifest.unit_vectors
        self._similarity = SIMILARITIES[manifest.score_scale]
        self._texts = texts
        self._forward = forward
        counted = [0 if manifest.pools_prompts else self._prompt_tokens(prompt) for prompt in manifest.prompts]
        self._unpooled_query, self._unpooled_document = counted

    def _prompt_tokens(self, prompt: str) -> int:
        """Return how many tokens sentence-transformers takes for the prompt's, the special ones before it counted."""
        return len(self._template.prefix) + self._texts.count(prompt) if prompt else 0

    def encode_query(self, query: str, instruction: str = "") -> Vector:
        """Return the query's vector, shape [width]."""
        del instruction  # it has no place
        (ids,) = self._texts.encode([self._query_prompt + query])
        ids = self._texts.kept(ids, self._template.room_tokens)
        vector: Vector = self._embed([ids], self._template.special_tokens + len(ids), self._unpooled_query)[0]
        return vector

    def encode_documents(
        self, query: Vector, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Return token ids, cut to the model's limit, and lengths; see the protocol."""
        del query  # takes no room here
        room = self._template.room_tokens
        texts = [self._document_prompt + text for text in documents]
        ids = self._texts.encode(texts)
        cut = (len(found) > room or self._texts.has_unread_rest(text) for found, text in zip(ids, texts, strict=True))
        truncated = np.fromiter(cut, np.bool_, len(ids))
        ids = [self._texts.kept(document, room) for document in ids]
        lengths = np.fromiter((len(document) for document in ids), np.int32, len(ids))
        return ids, lengths + self._template.special_tokens, truncated

    def score(self, pairs: Sequence[tuple[Vector, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Return similarities, shape [pairs]."""
        vectors = self._embed([document for _, document in pairs], length, self._unpooled_document)
        return self._similarity(np.stack([query for query, _ in pairs]), vectors).astype(np.float32)

    def _embed(self, texts: Sequence[NDArray[np.int32]], length: int, unpooled: int) -> Vector:
        """Return vectors, shape [texts, width]; the first `unpooled` tokens of each text count in none."""
        rows = [(self._template.prefix, ids, self._template.suffix) for ids in texts]
        input_ids, mask = batch_rows(rows, self._template, length, unpooled)
        vectors = self._forward(input_ids, mask, np.zeros_like(input_ids)).astype(np.float32)
        if not self._unit_vectors:
            return vectors
        return np.asarray(vectors / np.maximum(_lengths(vectors), 1e-12)[:, None], dtype=np.float32)
