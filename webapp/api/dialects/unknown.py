"""The format of errors when a call's format is unknown.

nginx refuses some requests by itself; bodies that can't be read and paths that don't exist name no format either. So
this body is a superset: clients of every format find the message in the place where they look for it.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from contracts.errors import error_body
from webapp.api.dialects import documents
from webapp.api.dialects.base import ErrorFormat
from webapp.api.dialects.reply_parts import Figures, message_of
from webapp.domain.errors import RerankError


class AnyErrorDetail(Figures):
    """`error` of an error whose caller's format is unknown."""

    code: str
    message: str
    type: str
    param: str | None
    retryable: bool


class AnyError(Figures):
    """An error whose caller's format is unknown, in every place where a client may look for it."""

    error: AnyErrorDetail
    message: str
    detail: str
    status: int
    code: int
    request_id: str


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """Return the body, JSON."""
    body = error_body(
        status,
        error.code,
        message_of(error),
        request_id,
        retryable=error.retryable,
        param=error.field,
        figures=error.figures,
    )
    return msgspec.json.encode(body)


DIALECT = replace(
    documents.DIALECT,
    name="unknown",
    title="No format: nothing in the call tells one",
    claims=lambda _: True,
    errors=ErrorFormat("documents", dump_error, AnyError),
    paths=(),
)

DIALECT_OF_OUR_PATHS = replace(DIALECT, errors=replace(DIALECT.errors, profile="native"))
"""The same for a large body at one of our own paths: our callers get the statuses that they know."""
