"""How a pair's score lies in Redis: ten bytes under a name of our own. PURE.

Never a pickle: whoever can write to Redis could run code here. As it is they can give wrong scores: keep it private.
"""

from __future__ import annotations

import math
import struct

from webapp.cache.memory import PairScore

VERSION = 1
"""Of names and values. Another version's values are never read, so releases may share one Redis."""

_NAMESPACE = b"rerank:%d:" % VERSION
_VALUE = struct.Struct("<BfBI")
"""Version, logit (float32, as the engine made it), truncated, tokens; little-endian."""


def name_of(key: bytes) -> bytes:
    """The name under which a pair lies in Redis.

    Args:
        key: from `webapp.cache.keys`; it holds the artifact, so models and precisions never share a score.
    """
    return _NAMESPACE + key


def pack(score: PairScore) -> bytes:
    """A score as bytes."""
    return _VALUE.pack(VERSION, score.logit, score.truncated, score.tokens)


def unpack(value: bytes | None) -> PairScore | None:
    """A score from bytes; None for what is not there, or not ours."""
    if value is None or len(value) != _VALUE.size:
        return None
    version, logit, truncated, tokens = _VALUE.unpack(value)
    if version != VERSION or not math.isfinite(logit):
        return None
    return PairScore(logit, bool(truncated), tokens)
