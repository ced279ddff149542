"""Errors -> HTTP. The only file that knows status numbers."""

from __future__ import annotations

import logging

from flask import Flask, Response, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from webapp.api import middleware
from webapp.api.content_encoding import ACCEPTED
from webapp.api.dialects.base import ErrorProfile
from webapp.api.path_aliases import meant_by
from webapp.api.routes.health import ENDPOINTS
from webapp.domain import errors

log = logging.getLogger(__name__)

STATUS: dict[type[errors.RerankError], tuple[int, int, int]] = {
    #                            native, documents family, TEI
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
    # 429 is what the others' clients know how to repeat; some repeat a 503 or a 504 thirty times.
    errors.OverloadedError: (503, 429, 429),
    errors.RateLimitedError: (429, 429, 429),
    errors.UnavailableError: (503, 503, 503),
    errors.DeadlineExceededError: (504, 429, 429),
    errors.CancelledError: (499, 499, 499),  # for our log, as nginx has it: nobody is there to read it
}

COLUMN: dict[ErrorProfile, int] = {"native": 0, "documents": 1, "tei": 2}

_KNOWN_PATHS = frozenset(endpoint.split()[1] for endpoint in ENDPOINTS)

LATER = (errors.OverloadedError, errors.RateLimitedError, errors.UnavailableError, errors.DeadlineExceededError)
"""These carry Retry-After, never 0: cohere's client takes that for absent."""


def respond(error: errors.RerankError) -> Response:
    """The reply to a request that failed, in its caller's dialect."""
    if error.__cause__ is not None and not isinstance(error, errors.InvalidRequestError):
        log.error("request failed", extra={"code": error.code}, exc_info=error.__cause__)
    middleware.fail(error)
    dialect = middleware.dialect()
    status = STATUS[type(error)][COLUMN[dialect.manners]]
    body = dialect.dump_error(error, status, middleware.request_id())
    response = Response(body, status, content_type="application/json")
    if isinstance(error, errors.UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.UnsupportedEncodingError):
        response.headers["Accept-Encoding"] = ", ".join(ACCEPTED)
    if isinstance(error, LATER):
        response.headers["Retry-After"] = str(max(1, error.retry_after_s or 1))
    return response


def install(app: Flask) -> None:
    """Turn everything a view may raise into JSON."""
    app.register_error_handler(errors.RerankError, respond)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(RecursionError, _too_deep)
    app.register_error_handler(Exception, _unknown)


def _http(error: HTTPException) -> Response:
    """Flask's own: no such path, wrong method, body too large."""
    if isinstance(error, NotFound):
        meant = meant_by(request.path, _KNOWN_PATHS)
        hint = f"did you mean {meant}? " if meant else ""
        return respond(errors.NotFoundError(f"there is nothing at this path; {hint}GET / lists what there is"))
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
    """Says nothing to the client and everything to the log, the request id in both."""
    log.error("unexpected error", exc_info=error)
    return respond(errors.InternalError("an internal error; the log has the details under this request id"))


def _too_deep(_: RecursionError) -> Response:
    """A document was just shallow enough to be read, and too deep to be written."""
    return respond(errors.InvalidRequestError("the body is nested too deeply"))
