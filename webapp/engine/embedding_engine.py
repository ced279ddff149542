"""Bi-encoder: query and document become vectors apart from each other, their cosine is the score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webapp.engine.base import Forward, Runtime
from webapp.engine.template import Template
from webapp.engine.text_tools import TextTools
from webapp.engine.tokenizer import TextEncoder
from webapp.types import ModelInfo

Vector = NDArray[np.float32]


class EmbeddingEngine:
    """A sentence encoder on any runtime."""

    def __init__(
        self, info: ModelInfo, runtime: Runtime, tokenizer_path: Path, template: Template, prompts: tuple[str, str]
    ) -> None:
        """Prompts are put before the text: the query's, the document's."""
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

    def start(self, threads: int) -> None:
        """Compile the model for this process."""
        self._runtime.start(threads)

    def open_session(self) -> EmbeddingSession:
        """A session for the calling thread."""
        return self.open_session_on(self._runtime.open())

    def open_session_on(self, forward: Forward) -> EmbeddingSession:
        """A session that computes with another forward pass, such as one that looks at its input."""
        return EmbeddingSession(forward, self._encoder, self._template, self._prompts)


class EmbeddingSession:
    """See `webapp.engine.base.Session`; an encoded query is its unit vector."""

    def __init__(self, forward: Forward, encoder: TextEncoder, template: Template, prompts: tuple[str, str]) -> None:
        self._forward = forward
        self._encoder = encoder
        self._template = template
        self._query_prompt, self._document_prompt = prompts

    def encode_query(self, query: str) -> Vector:
        """The query's unit vector, shape [width]."""
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
        ids = self._encoder.encode([prompt + text for text in documents] if prompt else documents)
        truncated = np.fromiter((len(document) > room for document in ids), np.bool_, len(ids))
        ids = [document[:room] for document in ids]
        lengths = np.fromiter((len(document) for document in ids), np.int32, len(ids))
        return ids, lengths + self._special_tokens, truncated

    def score(self, pairs: Sequence[tuple[Vector, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Cosines, shape [pairs]."""
        vectors = self._embed([document for _, document in pairs], length)
        return np.asarray(np.einsum("ij,ij->i", vectors, np.stack([query for query, _ in pairs])), np.float32)

    @property
    def _special_tokens(self) -> int:
        return self._template.max_length_tokens - self._template.room_tokens

    def _embed(self, texts: Sequence[NDArray[np.int32]], length: int) -> Vector:
        """Unit vectors, shape [texts, width]."""
        template = self._template
        # There are no positions past the model's limit.
        input_ids = np.full((len(texts), min(length, template.max_length_tokens)), template.pad_id, np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(texts):
            at = 0
            for part in (template.prefix, ids, template.suffix):
                input_ids[row, at : at + len(part)] = part
                at += len(part)
            mask[row, :at] = 1
        vectors = self._forward(input_ids, mask, np.zeros_like(input_ids)).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
