"""Errors -> HTTP. The only module with status numbers for them; codes and `retryable` are in `webapp.domain.errors`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flask import Flask, Response, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from webapp.api.content_encoding import ACCEPTED
from webapp.api.current_request import current
from webapp.api.dialects.base import ErrorProfile
from webapp.domain import errors

log = logging.getLogger(__name__)

COLUMN: dict[ErrorProfile, int] = {"native": 0, "documents": 1, "tei": 2}

STATUS: dict[type[errors.RerankError], tuple[int, int, int]] = {
    errors.InvalidRequestError: (400, 400, 422),  # the infinity client fails on a 422 that is not FastAPI's
    errors.EmptyRequestError: (400, 400, 400),
    errors.UnauthorizedError: (401, 401, 401),
    errors.NotFoundError: (404, 404, 404),
    errors.ModelNotFoundError: (404, 404, 404),
    errors.MethodNotAllowedError: (405, 405, 405),
    errors.PayloadTooLargeError: (413, 413, 413),
    errors.UnsupportedEncodingError: (415, 415, 415),
    errors.InternalError: (500, 500, 500),
    errors.EngineFailedError: (500, 500, 424),
    # Other services' clients retry a 429 politely; some repeat a 503 or a 504 thirty times.
    errors.OverloadedError: (503, 429, 429),
    errors.RateLimitedError: (429, 429, 429),
    errors.UnavailableError: (503, 503, 503),
    errors.DeadlineExceededError: (504, 429, 429),
    errors.CancelledError: (499, 499, 499),  # for our log, as nginx has it: the caller is gone
}

LATER = (errors.OverloadedError, errors.RateLimitedError, errors.UnavailableError, errors.DeadlineExceededError)
"""Errors that carry Retry-After, never 0: cohere's client takes that for absent."""


def respond(error: errors.RerankError) -> Response:
    """Return the reply to a request that failed, in its caller's dialect."""
    if error.__cause__ is not None and not isinstance(error, errors.InvalidRequestError):
        log.error("request failed", extra={"code": error.code}, exc_info=error.__cause__)
    current().error = error
    style = current().dialect().errors
    status = STATUS[type(error)][COLUMN[style.profile]]
    response = Response(style.dump(error, status, current().id), status, content_type="application/json")
    if isinstance(error, errors.UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.UnsupportedEncodingError):
        response.headers["Accept-Encoding"] = ", ".join(ACCEPTED)
    if isinstance(error, LATER):
        response.headers["Retry-After"] = str(max(1, error.retry_after_s or 1))
    return response


def install(app: Flask, known_paths: Iterable[str]) -> None:
    """Turn every exception of a view into JSON; the reply to an unknown path names the known one that it ends in."""
    paths = frozenset(known_paths)

    def nothing(_: NotFound) -> Response:
        meant = nearest_path(request.path, paths)
        hint = f"did you mean {meant}? " if meant else ""
        return respond(errors.NotFoundError(f"there is nothing at this path; {hint}GET / lists what there is"))

    app.register_error_handler(errors.RerankError, respond)
    app.register_error_handler(NotFound, nothing)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(RecursionError, _too_deep)
    app.register_error_handler(Exception, _unknown)


def nearest_path(path: str, known: Iterable[str]) -> str | None:
    """Return the longest known path that this one ends in."""
    path = path.rstrip("/")
    return max((each for each in known if each != "/" and path.endswith(each)), key=len, default=None)


def _http(error: HTTPException) -> Response:
    """Translate Flask's own errors: wrong method, body too large."""
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(error.valid_methods or [])
        response = respond(errors.MethodNotAllowedError(f"this path takes {allowed}"))
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, RequestEntityTooLarge):
        response = respond(errors.PayloadTooLargeError("the body is larger than this service accepts"))
        response.headers["Connection"] = "close"  # the rest of the body was not read
        return response
    if isinstance(error, ClientDisconnected) or (error.code and error.code < 500):  # noqa: PLR2004
        return respond(errors.InvalidRequestError(error.description or error.name))
    return _unknown(error)


def _unknown(error: Exception) -> Response:
    """Log everything about an unexpected error; the client gets only the request id."""
    log.error("unexpected error", exc_info=error)
    return respond(errors.InternalError("an internal error; the log has the details under this request id"))


def _too_deep(_: RecursionError) -> Response:
    """Refuse a document that was just shallow enough to be read, and too deep to be written."""
    return respond(errors.InvalidRequestError("the body is nested too deeply"))
