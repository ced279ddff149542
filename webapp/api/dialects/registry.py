"""Every dialect, in the order in which they are asked whether a call is theirs: the first that claims it has it."""

from __future__ import annotations

from webapp.api.dialects import (
    cohere_v2,
    infinity,
    librechat,
    mixedbread,
    native,
    nim,
    pinecone,
    tei,
    tei_predict,
    union,
    vllm_score,
    voyage,
    weaviate,
)
from webapp.api.dialects.base import Call, Dialect

DIALECTS: tuple[Dialect, ...] = (
    native.DIALECT,
    tei_predict.DIALECT,
    tei.DIALECT,
    nim.DIALECT,
    mixedbread.DIALECT,
    vllm_score.DIALECT,
    librechat.DIALECT,
    pinecone.DIALECT,
    cohere_v2.DIALECT,
    weaviate.DIALECT,
    infinity.DIALECT,
    voyage.DIALECT,
    union.DIALECT,  # takes every call
)


BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


def dialect_of(call: Call) -> Dialect:
    """The dialect of a call; never raises, for errors need a dialect too."""
    return next(dialect for dialect in DIALECTS if dialect.claims(call))
