"""GET /progress/<id>: one request as server-sent events. GET /progress: what the pusher counts."""

from __future__ import annotations

import json
import logging

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException, InternalServerError

from contracts.events import keys_in
from pusher.access import Access, Viewer
from pusher.relay import Relay
from pusher.streams import Streams, TooManyStreamsError

log = logging.getLogger(__name__)

MOST_ID_CHARS = 128

ERRORS = {
    400: ("invalid_request", "BadRequestError", "the request is not valid"),
    401: ("unauthorized", "AuthenticationError", "send an API key: Authorization: Bearer KEY"),
    404: ("not_found", "NotFoundError", "there is nothing at this path"),
    405: ("method_not_allowed", "MethodNotAllowedError", "this method is not served"),
    500: ("internal", "InternalServerError", "an internal error"),
    503: ("overloaded", "ServiceUnavailableError", "too many followers"),
}
"""HTTP status -> code of the error, its type as OpenAI's clients name it, and its message."""


def blueprint(relay: Relay, access: Access, streams: Streams) -> Blueprint:
    """The routes under /progress."""
    views = Blueprint("following", __name__)

    def viewer() -> Viewer | None:
        return access.viewer(keys_in(request.headers))

    @views.get("/progress/<request_id>")
    def follow(request_id: str) -> Response:
        who = viewer()
        if who is None:
            return _refuse(401)
        try:
            events = streams.follow(request_id, who, relay.runs.find(request_id, who.may_see))
        except TooManyStreamsError:
            return _refuse(503)
        log.info("followed", extra={"request_id": request_id[:MOST_ID_CHARS]})
        response = Response(events, content_type="text/event-stream; charset=utf-8")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # another nginx in front must pass every event on at once
        return response

    @views.get("/progress")
    @views.get("/progress/")
    def counts() -> Response:
        who = viewer()
        if who is None or not who.operator:
            return _refuse(401, "send an operator's key: Authorization: Bearer KEY")
        return Response(json.dumps({**relay.counts(), "streams": streams.count}), content_type="application/json")

    @views.app_errorhandler(HTTPException)
    def refuse_others(error: HTTPException) -> Response:
        return _refuse(error.code if error.code in ERRORS else InternalServerError.code)

    return views


def _refuse(status: int, message: str = "") -> Response:
    """Refuse with the body that `webapp/api/dialects/unknown.py` makes, which the pusher may not import."""
    code, kind, usual = ERRORS[status]
    message, request_id = message or usual, request.headers.get("X-Request-Id", "")
    retryable = status >= 500  # noqa: PLR2004
    detail = {"code": code, "message": message, "type": kind, "param": None, "retryable": retryable}
    body = {
        "error": detail,
        "message": message,
        "detail": message,
        "status": status,
        "code": status,
        "request_id": request_id,
    }
    response = Response(json.dumps(body), status, content_type="application/json")
    response.headers["X-Request-Id"] = request_id
    if status == 401:  # noqa: PLR2004
        response.headers["WWW-Authenticate"] = "Bearer"
    if status == 503:  # noqa: PLR2004
        response.headers["Retry-After"] = "1"
    return response
