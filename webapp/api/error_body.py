"""The body of an error whose caller's format is unknown.

nginx refuses by itself, bodies that can't be read and paths that don't exist tell nothing of the format. So this body
is a superset: clients of every format find the message in the place where they look for it.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from webapp.domain.errors import RerankError

_TYPES = {
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestEntityTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "ServiceUnavailableError",
}


class _Figures(msgspec.Struct, kw_only=True):
    """Numbers of a refusal."""

    queued: float | UnsetType = UNSET
    limit: float | UnsetType = UNSET
    eta_s: float | UnsetType = UNSET
    scored: float | UnsetType = UNSET
    total: float | UnsetType = UNSET


class AnyErrorDetail(_Figures, kw_only=True):
    """`error` of an error whose caller's format is unknown."""

    code: str
    message: str
    type: str
    param: str | None
    retryable: bool


class AnyError(_Figures, kw_only=True):
    """An error whose caller's format is unknown, in every place where a client may look for it."""

    error: AnyErrorDetail
    message: str
    detail: str
    status: int
    code: int
    request_id: str


def type_of(status: int) -> str:
    """An HTTP status as OpenAI's clients name it."""
    return _TYPES.get(status, "BadRequestError")


def message_of(error: RerankError) -> str:
    """What a caller is told: the place that is wrong, if there is one, and what is wrong."""
    return f"{error.field}: {error.message}" if error.field else error.message


def dump_error(error: RerankError, status: int, request_id: str) -> bytes:
    """The body, JSON."""
    message = message_of(error)
    figures = dict(error.figures)
    return msgspec.json.encode(
        AnyError(
            error=AnyErrorDetail(
                code=error.code,
                message=message,
                type=type_of(status),
                param=error.field,
                retryable=error.retryable,
                **figures,
            ),
            message=message,
            detail=message,
            status=status,
            code=status,
            request_id=request_id,
            **figures,
        )
    )
