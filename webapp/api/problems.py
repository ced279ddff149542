"""Errors -> HTTP. The only file that knows status numbers."""

from __future__ import annotations

import logging

from flask import Flask, Response
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from webapp import errors
from webapp.api import request_context
from webapp.api.dialects import native

log = logging.getLogger(__name__)

STATUS: dict[type[errors.RerankError], int] = {
    errors.InvalidRequestError: 400,
    errors.UnauthorizedError: 401,
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.PayloadTooLargeError: 413,
    errors.InternalError: 500,
    errors.EngineFailedError: 500,
    errors.OverloadedError: 503,
    errors.UnavailableError: 503,
    errors.DeadlineExceededError: 504,
}


def respond(error: errors.RerankError) -> Response:
    """The reply to a request that failed."""
    if error.__cause__ is not None and not isinstance(error, errors.InvalidRequestError):
        log.error("request failed", extra={"code": error.code}, exc_info=error.__cause__)
    response = Response(
        native.dump_error(error, request_context.request_id()), STATUS[type(error)], content_type="application/json"
    )
    if isinstance(error, errors.UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def install(app: Flask) -> None:
    """Turn everything a view may raise into JSON."""
    app.register_error_handler(errors.RerankError, respond)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unknown)


def _http(error: HTTPException) -> Response:
    """Flask's own: no such path, wrong method, body too large."""
    if isinstance(error, NotFound):
        return respond(errors.NotFoundError("there is nothing at this path; GET / lists what there is"))
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
