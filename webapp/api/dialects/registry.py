"""Every dialect, in the order in which they are asked whether a call is theirs: the first that claims it has it."""

from __future__ import annotations

from dataclasses import replace

from webapp.api import error_body
from webapp.api.dialects import (
    cohere_v2,
    documents,
    infinity,
    librechat,
    mixedbread,
    native,
    nim,
    pinecone,
    tei,
    tei_predict,
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
    documents.DIALECT,
)

UNKNOWN = replace(
    documents.DIALECT,
    name="unknown",
    title="No format: nothing in the call tells one",
    claims=lambda _: True,
    dump_error=error_body.dump_error,
    error=error_body.AnyError,
    paths=(),
)
"""What no dialect claims gets an error that callers of all formats can read."""


UNREAD = replace(UNKNOWN, manners=native.DIALECT.manners)
"""What is known of a call to our own path before its body is read."""

_OUR_PATHS = ("/rerank", "/rerank/batch")

BY_NAME = {dialect.name: dialect for dialect in (*DIALECTS, UNKNOWN)}


def dialect_of(call: Call) -> Dialect:
    """The dialect of a call; never raises, for errors need a dialect too."""
    return next((dialect for dialect in DIALECTS if dialect.claims(call)), UNKNOWN)


def dialect_of_unread(call: Call) -> Dialect:
    """The dialect of a call whose body is large: its path and headers tell, for to read it costs more than an error."""
    found = dialect_of(replace(call, body=b""))
    return UNREAD if found is UNKNOWN and call.path in _OUR_PATHS else found
