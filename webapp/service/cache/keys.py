"""Cache keys: what a pair's score depends on, as 16 bytes. PURE."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from webapp.domain.concurrency import LONG_CHARS

KEY_BYTES = 16


def pair_keys(artifact: str, query: str, documents: Sequence[str], instruction: str = "") -> list[bytes]:
    """Return one key a document.

    A key is blake2b over the artifact (model, precision, longest pair), the instruction, the query and the document,
    each after its length, so that no two pairs share a spelling. Never `hash()`: it is salted anew in every process.

    Args:
        artifact: identity of the model that scores, truncation included.
        query: the question.
        documents: the candidates.
        instruction: of the request; empty: the model's default, which the artifact's identity has.
    """
    begun = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in (artifact, instruction, query):
        encoded = list(_pieces(part))
        begun.update(b"%d:" % sum(map(len, encoded)))
        for piece in encoded:
            begun.update(piece)
    keys = []
    for document in documents:
        pair = begun.copy()
        if len(document) <= LONG_CHARS:  # nearly all
            pair.update(document.encode())  # the last part, so its length adds nothing
        else:
            for piece in _pieces(document):
                pair.update(piece)
        keys.append(pair.digest())
    return keys


def _pieces(text: str) -> Iterator[bytes]:
    """Encode a text in pieces, so that other threads get their turn between two of them."""
    return (text[start : start + LONG_CHARS].encode() for start in range(0, len(text), LONG_CHARS))
