"""Cross-encoder: query and document in one sequence, one logit out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import ModelInfo
from webapp.engine.base import Forward, Runtime
from webapp.engine.template import Template
from webapp.engine.text_tools import TextTools
from webapp.engine.tokenizer import TextEncoder, split_room


@dataclass(frozen=True, slots=True)
class Query:
    """A query, encoded once a request."""

    text: str
    ids: NDArray[np.int32]
    """Its tokens, at most one more than a whole pair may hold."""


class CrossEncoderEngine:
    """A sequence classifier with one label, on any runtime."""

    def __init__(self, info: ModelInfo, runtime: Runtime, tokenizer_path: Path, template: Template) -> None:
        self.info = info
        self._runtime = runtime
        self._template = template
        self._encoder = TextEncoder(tokenizer_path, template.room_tokens)
        self.texts = TextTools(
            self._encoder.whole,
            special_tokens=template.max_length_tokens - template.room_tokens,
            query_takes_room=True,
        )

    def start(self, threads: int) -> None:
        """Compile the model for this process."""
        self._runtime.start(threads)

    def open_session(self) -> CrossEncoderSession:
        """A session for the calling thread."""
        return self.open_session_on(self._runtime.open())

    def open_session_on(self, forward: Forward) -> CrossEncoderSession:
        """A session that computes with another forward pass, such as one that looks at its input."""
        return CrossEncoderSession(forward, self._encoder, self._template)


class CrossEncoderSession:
    """See `webapp.engine.base.Session`."""

    def __init__(self, forward: Forward, encoder: TextEncoder, template: Template) -> None:
        self._forward = forward
        self._encoder = encoder
        self._template = template
        self._special_tokens = template.max_length_tokens - template.room_tokens

    def encode_query(self, query: str) -> Query:
        """The query's tokens; how many of them are used depends on the document."""
        return Query(query, self._encoder.encode([query])[0])

    def encode_documents(
        self, query: Query, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids cut to fit beside the query; see the protocol."""
        room = self._template.room_tokens
        ids = self._encoder.encode(documents)
        lengths = np.empty(len(ids), np.int32)
        truncated = np.zeros(len(ids), np.bool_)
        for index, document in enumerate(ids):
            sizes = len(query.ids), len(document)
            if min(sizes) > room:
                # Both were cut short, but the longer of the two is due the odd token of the room.
                sizes = self._encoder.count(query.text), self._encoder.count(documents[index])
            kept_query, kept = split_room(*sizes, room)
            lengths[index] = self._special_tokens + kept_query + kept
            if sum(sizes) > room:
                truncated[index] = True
                ids[index] = document[:kept].copy()  # a slice would keep the whole alive
            elif self._encoder.leaves_some(documents[index]):
                truncated[index] = True
        return ids, lengths, truncated

    def score(self, pairs: Sequence[tuple[Query, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Logits, shape [pairs]."""
        template = self._template
        # There are no positions past it; a tokenizer that adds nothing makes no token of two empty texts.
        shape = (len(pairs), max(1, min(length, template.max_length_tokens)))
        input_ids = np.full(shape, template.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.zeros(shape, np.int64)
        for row, (query, document) in enumerate(pairs):
            # A document was cut to fit; a query that is still too long gives way to it.
            kept_query = query.ids[: template.room_tokens - len(document)]
            parts = (template.prefix, kept_query, template.middle, document, template.suffix)
            at = 0
            for part in parts:
                input_ids[row, at : at + len(part)] = part
                at += len(part)
            mask[row, :at] = 1
            types[row, at - len(template.suffix) - len(document) : at] = template.document_type
        logits = self._forward(input_ids, mask, types)
        return np.array(logits[:, 0], dtype=np.float32)
