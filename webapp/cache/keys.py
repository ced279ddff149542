"""What a pair's score depends on, as 16 bytes. PURE."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

KEY_BYTES = 16


def pair_keys(artifact: str, query: str, documents: Sequence[str]) -> list[bytes]:
    """One key a document.

    Built from blake2b over the artifact (model, precision, longest pair), the query and the document, each after its
    length, so that no two pairs share a spelling. Never `hash()`: it is salted anew in every process.

    Args:
        artifact: identity of what computes the score, truncation included.
        query: the question.
        documents: the candidates.
    """
    begun = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in (artifact, query):
        encoded = part.encode()
        begun.update(b"%d:" % len(encoded))
        begun.update(encoded)
    keys = []
    for document in documents:
        pair = begun.copy()
        pair.update(document.encode())  # the last part, so its length adds nothing
        keys.append(pair.digest())
    return keys
