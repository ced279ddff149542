"""Voyage, where it can be told: its client sends `truncation` always.

Source: docs.voyageai.com/reference/reranker-api, voyageai 0.3.7 and 0.5.0. The reply is the documents family's. An
error is not: voyageai before 0.5 takes an object under `error` for its own and fails over it with an AttributeError.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta

from webapp.api.dialects import documents
from webapp.api.error_body import message_of
from webapp.domain.errors import RerankError


class VoyageError(msgspec.Struct):
    """An error without `error`."""

    id: str
    message: str
    detail: Annotated[str, Meta(description="The message once more: Voyage's client reads it here.")]
    status: int
    code: str
    retryable: bool
    request_id: str


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """An error, as Voyage has it."""
    message = message_of(error)
    return msgspec.json.encode(
        VoyageError(request_id, message, message, status, error.code, error.retryable, request_id)
    )


DIALECT = replace(
    documents.DIALECT,
    name="voyage",
    title="Voyage",
    claims=lambda call: call.path == "/v1/rerank" and call.has("truncation"),
    dump_error=dump_error,
    error=VoyageError,
    paths=("/v1/rerank",),
    example={
        "model": "any",
        "query": "how do bees find home",
        "documents": ["Milk keeps three days.", "Bees follow the sun."],
        "top_k": 1,
        "truncation": True,
    },
)
