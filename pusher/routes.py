"""HTTP routes of the pusher, and its access lines.

`GET /progress/<id>` follows one request by server-sent events, `GET /progress` shows what the pusher counts to
operators, and `GET /figures` to the exporter of its stack: nginx passes nobody there, and the socket is this user's
alone. Over TCP there is `GET /live` in its place, which tells a probe that the pusher answers.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, InternalServerError

from contracts.errors import error_body
from contracts.events import USABLE_ID, keys_in
from contracts.logging.line import access_fields, level_of
from pusher.access import Access, Viewer
from pusher.relay import Relay
from pusher.streams import Streams, TooManyStreamsError

log = logging.getLogger(__name__)
access_log = logging.getLogger("pusher.access")

MOST_ID_CHARS = 128

PROBE = "/live"
"""Asked every few seconds, so it has no access line."""

ERRORS = {
    400: ("invalid_request", "the request is not valid"),
    401: ("unauthorized", "send an API key: Authorization: Bearer KEY"),
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this method is not served"),
    500: ("internal", "an internal error"),
    503: ("overloaded", "too many followers"),
}
"""HTTP status -> code of the error, and its message."""

HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}


def install(
    app: Flask, relay: Relay, access: Access, streams: Streams, sockets: Callable[[], dict[str, int]] | None = dict
) -> None:
    """Add the routes, and an access line for every request but Socket.IO's, which nginx has lines of.

    Args:
        app: gets them.
        relay: what was heard.
        access: the keys that are accepted.
        streams: followers by server-sent events.
        sockets: returns what is counted of browsers; None: others than the exporter may reach this pusher directly.
    """
    app.before_request(_begin)
    app.after_request(_log_access)

    def viewer() -> Viewer | None:
        return access.viewer(keys_in(request.headers))

    @app.get("/progress/<request_id>")
    def follow(request_id: str) -> Response:
        follower = viewer()
        if follower is None:
            return _refuse(401)
        try:
            events = streams.follow(request_id, follower, relay.runs.find(request_id, follower.may_see))
        except TooManyStreamsError:
            return _refuse(503)
        log.info("followed", extra={"request_id": request_id[:MOST_ID_CHARS]})
        response = Response(events, content_type="text/event-stream; charset=utf-8")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # another nginx in front must pass every event on at once
        return response

    @app.get("/progress")
    @app.get("/progress/")
    def counts() -> Response:
        operator = viewer()
        if operator is None or not operator.operator:
            return _refuse(401, "send an operator's key: Authorization: Bearer KEY")
        return _as_json({**relay.counts(), "streams": streams.count})

    if sockets is None:
        app.add_url_rule(PROBE, view_func=lambda: _as_json({"status": "ok"}))
    else:
        app.add_url_rule(
            "/figures", view_func=lambda: _as_json({**relay.counts(), **sockets(), "streams": streams.count})
        )

    @app.errorhandler(HTTPException)
    def refuse_others(error: HTTPException) -> Response:
        return _refuse(error.code if error.code in ERRORS else InternalServerError.code)


def _as_json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def _refuse(status: int, message: str = "") -> Response:
    code, usual = ERRORS[status]
    request_id = request.headers.get("X-Request-Id", "")
    later = status >= InternalServerError.code
    response = _as_json(error_body(status, code, message or usual, request_id, retryable=later), status)
    response.headers.update([("X-Request-Id", request_id), *HEADERS.get(status, {}).items()])
    return response


def _begin() -> None:
    g.began = time.monotonic()


def _log_access(response: Response) -> Response:
    """Write an access line with the fields of the webapp's."""
    if request.path == PROBE:
        return response
    given = request.headers.get("X-Request-Id", "")  # nginx's own, or one that it found usable
    access_log.log(
        level_of(response.status_code, comes_later="Retry-After" in response.headers),
        "request",
        extra={
            "request_id": given if USABLE_ID.fullmatch(given) else "",
            **access_fields(request.method, request.path, response.status_code, time.monotonic() - g.began),
        },
    )
    return response
