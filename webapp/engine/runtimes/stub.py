"""An engine without a model: for tests, for trying the API, and for measuring everything around a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import Kept, ModelInfo, Session, Token
from webapp.engine.tokenizer import split_room


class StubTexts:
    """See `webapp.engine.base.Texts`; a token is four characters."""

    special_tokens = 1
    query_takes_room = False
    keeps: Kept = "start"

    def query_tokens(self, query: str, instruction: str = "") -> int:
        """Return the number of tokens."""
        del instruction  # it has no place
        return -(-len(query) // 4)

    def document_tokens(self, document: str) -> int:
        """Return the number of tokens."""
        return -(-len(document) // 4)

    def split_room(self, query: int, document: int, room: int) -> tuple[int, int]:
        """Return how many tokens are kept; see `webapp.engine.tokenizer.split_room`."""
        return split_room(query, document, room)

    def offsets(self, text: str) -> NDArray[np.int32]:
        """Return characters [start, stop) of each token, shape [tokens, 2]."""
        starts = np.arange(0, len(text), 4)
        return np.stack([starts, np.minimum(starts + 4, len(text))], axis=1).astype(np.int32)

    def tokenize(self, text: str, *, special: bool) -> Iterator[Token]:
        """Yield one special token, then all others."""
        if special:
            yield Token(0, "[STUB]", True, None, None)
        for start in range(0, len(text), 4):
            piece = text[start : start + 4]
            yield Token(1, piece, False, start, start + len(piece))


class StubEngine:
    """Scores each pair by a hash of its document's text: stable, distinct, meaningless."""

    info = ModelInfo(
        model="stub",
        revision="1",
        kind="stub",
        engine="stub",
        precision="none",
        max_length_tokens=512,
        score_scale="sigmoid",
    )
    texts = StubTexts()
    padded = False
    most_batches = 0

    def start(self, threads: int) -> None:
        """Do nothing: there is nothing to compile."""

    def scores_fingerprint(self, session: Session) -> str:
        """Return nothing: there are no golden pairs."""
        del session
        return ""

    def open_session(self) -> StubSession:
        """Return a session."""
        return StubSession()


class StubSession:
    """See `webapp.domain.types.Session`; a token is four characters."""

    def encode_query(self, query: str, instruction: str = "") -> str:
        """Return the query itself."""
        del instruction  # it has no place
        return query

    def encode_documents(
        self, query: str, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Return one number in place of a document's tokens; see the protocol."""
        del query
        limit = StubEngine.info.max_length_tokens
        sizes = np.fromiter((1 + len(text) // 4 for text in documents), np.int32, len(documents))
        ids = [np.array([stub_logit(text) * 1000], np.int32) for text in documents]
        return ids, np.minimum(sizes, limit), sizes > limit

    def score(self, pairs: Sequence[tuple[str, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Return logits, shape [pairs]."""
        del length
        return np.fromiter((ids[0] / 1000 for _, ids in pairs), np.float32, len(pairs))


def stub_logit(document: str) -> float:
    """Return the logit of a document: -5..5 in steps of 0.001."""
    digest = hashlib.blake2b(document.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) % 10_001 / 1000 - 5
