"""How a pair's score lies in Redis: 14 bytes under a name of our own. PURE.

Never a pickle: whoever can write to Redis could run code here. As it is they can give wrong scores: keep it private.
"""

from __future__ import annotations

import math
import struct
import zlib

from webapp.service.cache.memory import PairScore

VERSION = 2
"""Of names and values. Another version's values are never read, so releases may share one Redis."""

_NAMESPACE = b"rerank:%d:" % VERSION
_SCORE = struct.Struct("<BfBI")
"""Version, logit (float32, as the engine made it), truncated, tokens; little-endian."""

_CHECK = struct.Struct("<I")
"""CRC-32 of the key and the score: an answer that came to another question must not be taken for a score."""


class NonsenseError(Exception):
    """Redis answered what nobody who keeps to our format and its protocol would."""


def name_of(key: bytes) -> bytes:
    """The name under which a pair lies in Redis.

    Args:
        key: from `webapp.service.cache.keys`; it holds the artifact, so models and precisions never share a score.
    """
    return _NAMESPACE + key


def pack(key: bytes, score: PairScore) -> bytes:
    """Return the score of a pair as bytes."""
    packed = _SCORE.pack(VERSION, score.logit, score.truncated, score.tokens)
    return packed + _CHECK.pack(_check(key, packed))


def unpack(key: bytes, value: object) -> PairScore | None:
    """Return the score of a pair from what Redis has under its name; None for nothing.

    Raises:
        NonsenseError: it is something else.
    """
    if value is None:
        return None
    if type(value) is not bytes or len(value) != _SCORE.size + _CHECK.size:
        raise NonsenseError("a value is no score")
    packed = value[: _SCORE.size]
    if _CHECK.unpack_from(value, _SCORE.size) != (_check(key, packed),):
        raise NonsenseError("a value belongs to another name, or is damaged")
    version, logit, truncated, tokens = _SCORE.unpack(packed)
    if version != VERSION or not math.isfinite(logit):
        raise NonsenseError("a value is no score")
    return PairScore(logit, bool(truncated), tokens)


def _check(key: bytes, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(key))
