"""Bi-encoder: query and document become vectors apart from each other; the score is how similar these are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import ModelInfo
from webapp.engine.base import Forward, Runtime
from webapp.engine.template import Template
from webapp.engine.text_tools import TextTools
from webapp.engine.tokenizer import TextEncoder

Vector = NDArray[np.float32]


def _dots(left: Vector, right: Vector) -> Vector:
    return np.asarray(np.einsum("ij,ij->i", left, right), np.float32)


SIMILARITIES: dict[str, Callable[[Vector, Vector], Vector]] = {
    "cosine": _dots,  # of unit vectors
    "dot": _dots,
    "euclidean": lambda left, right: -np.linalg.norm(left - right, axis=1),
    "manhattan": lambda left, right: -np.abs(left - right).sum(axis=1),
}
"""sentence-transformers' functions, of two arrays of shape [pairs, width]; a distance is negative."""


class EmbeddingEngine:
    """A sentence encoder on any runtime."""

    def __init__(
        self,
        info: ModelInfo,
        runtime: Runtime,
        tokenizer_path: Path,
        template: Template,
        *,
        prompts: tuple[str, str],
        unit_vectors: bool,
    ) -> None:
        """Put an encoder on a runtime.

        Args:
            info: names the similarity that is the score.
            runtime: gives vectors.
            tokenizer_path: of its `tokenizer.json`.
            template: how one text is framed.
            prompts: put before the text: the query's, the document's.
            unit_vectors: bring vectors to length 1.
        """
        self.info = info
        self._runtime = runtime
        self._template = template
        self._encoder = TextEncoder(tokenizer_path, template.room_tokens)
        self.texts = TextTools(
            self._encoder.whole,
            special_tokens=template.max_length_tokens - template.room_tokens,
            query_takes_room=False,
            query_prompt=prompts[0],
        )
        self._prompts = prompts
        self._unit_vectors = unit_vectors

    def start(self, threads: int) -> None:
        """Compile the model for this process."""
        self._runtime.start(threads)

    def open_session(self) -> EmbeddingSession:
        """A session for the calling thread."""
        return self.open_session_on(self._runtime.open())

    def open_session_on(self, forward: Forward) -> EmbeddingSession:
        """A session that computes with another forward pass, such as one that looks at its input."""
        return EmbeddingSession(
            forward,
            self._encoder,
            self._template,
            prompts=self._prompts,
            unit_vectors=self._unit_vectors,
            similarity=SIMILARITIES[self.info.score_scale],
        )


class EmbeddingSession:
    """See `webapp.engine.base.Session`; an encoded query is its vector."""

    def __init__(
        self,
        forward: Forward,
        encoder: TextEncoder,
        template: Template,
        *,
        prompts: tuple[str, str],
        unit_vectors: bool,
        similarity: Callable[[Vector, Vector], Vector],
    ) -> None:
        self._forward = forward
        self._encoder = encoder
        self._template = template
        self._query_prompt, self._document_prompt = prompts
        self._unit_vectors = unit_vectors
        self._similarity = similarity

    def encode_query(self, query: str) -> Vector:
        """The query's vector, shape [width]."""
        ids = self._encoder.encode([self._query_prompt + query])[0][: self._template.room_tokens]
        vector: Vector = self._embed([ids], self._special_tokens + len(ids))[0]
        return vector

    def encode_documents(
        self, query: Vector, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids cut to the model's limit; see the protocol."""
        del query  # takes no room here
        room = self._template.room_tokens
        prompt = self._document_prompt
        texts = [prompt + text for text in documents] if prompt else documents
        ids = self._encoder.encode(texts)
        cut = (len(found) > room or self._encoder.leaves_some(text) for found, text in zip(ids, texts, strict=True))
        truncated = np.fromiter(cut, np.bool_, len(ids))
        ids = [document[:room] for document in ids]
        lengths = np.fromiter((len(document) for document in ids), np.int32, len(ids))
        return ids, lengths + self._special_tokens, truncated

    def score(self, pairs: Sequence[tuple[Vector, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Similarities, shape [pairs]."""
        vectors = self._embed([document for _, document in pairs], length)
        return self._similarity(np.stack([query for query, _ in pairs]), vectors)

    @property
    def _special_tokens(self) -> int:
        return self._template.max_length_tokens - self._template.room_tokens

    def _embed(self, texts: Sequence[NDArray[np.int32]], length: int) -> Vector:
        """Vectors, shape [texts, width]."""
        template = self._template
        # There are no positions past the model's limit; a tokenizer that adds nothing makes no token of an empty text.
        width = max(1, min(length, template.max_length_tokens))
        input_ids = np.full((len(texts), width), template.pad_id, np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(texts):
            at = 0
            for part in (template.prefix, ids, template.suffix):
                input_ids[row, at : at + len(part)] = part
                at += len(part)
            mask[row, :at] = 1
        vectors = self._forward(input_ids, mask, np.zeros_like(input_ids)).astype(np.float32)
        if not self._unit_vectors:
            return vectors
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
