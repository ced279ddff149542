"""The body of an error whose caller's format is unknown, for webapp and pusher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPENAI_TYPES = {
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


def type_of(status: int) -> str:
    """Return the name that OpenAI's clients have for an HTTP status."""
    return _OPENAI_TYPES.get(status, "BadRequestError")


def error_body(
    status: int,
    code: str,
    message: str,
    request_id: str,
    *,
    retryable: bool,
    param: str | None = None,
    figures: Mapping[str, float] = {},
) -> dict[str, Any]:
    """Return the body: clients of every format find the message in the place where they look for it.

    Args:
        status: of the reply.
        code: the stable code of the error.
        message: for the caller.
        request_id: of the request.
        retryable: whether the same call may succeed later.
        param: the field of the request that is wrong.
        figures: numbers of the error, by name.
    """
    detail = {"code": code, "message": message, "type": type_of(status), "param": param, "retryable": retryable}
    return {
        "error": {**detail, **figures},
        "message": message,
        "detail": message,
        "status": status,
        "code": status,
        "request_id": request_id,
        **figures,
    }
