"""Every dialect, in order of precedence: a call belongs to the first one that claims it.

The first ones have paths of their own. Others claim by fields, wherever they are sent.
"""

from __future__ import annotations

from dataclasses import replace

from webapp.api.dialects import (
    dashscope,
    documents,
    librechat,
    mixedbread,
    native,
    nim,
    pinecone,
    tei,
    unknown,
    vllm_score,
    weaviate,
    zeroentropy,
)
from webapp.api.dialects.base import Call, Dialect

DIALECTS: tuple[Dialect, ...] = (
    dashscope.DIALECT,
    dashscope.COMPATIBLE,
    zeroentropy.DIALECT,
    native.DIALECT,
    tei.PREDICT,
    tei.DIALECT,
    nim.DIALECT,
    mixedbread.DIALECT,
    vllm_score.DIALECT,
    librechat.DIALECT,
    pinecone.DIALECT,
    documents.COHERE_V2,
    weaviate.DIALECT,
    documents.INFINITY,
    documents.VOYAGE,
    documents.DIALECT,
)

UNKNOWN = unknown.DIALECT

_OUR_PATHS = ("/rerank", "/rerank/batch")

BY_NAME = {dialect.name: dialect for dialect in (*DIALECTS, UNKNOWN)}


def dialect_of(call: Call) -> Dialect:
    """Return the dialect of a call; never raises, because errors need a dialect too."""
    return next((dialect for dialect in DIALECTS if dialect.claims(call)), UNKNOWN)


def dialect_of_unread(call: Call) -> Dialect:
    """Return the dialect of a call by its path and headers; reading a large body costs more than an error is worth."""
    found = dialect_of(replace(call, body=b""))
    return unknown.DIALECT_OF_OUR_PATHS if found is UNKNOWN and call.path in _OUR_PATHS else found
