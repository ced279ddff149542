"""GET /progress/<id>: one request as server-sent events. GET /progress: what the pusher counts."""

from __future__ import annotations

import json
import logging

from flask import Blueprint, Response, request

from pusher.access import Access, Viewer
from pusher.events import keys_in
from pusher.relay import Relay
from pusher.streams import Streams, TooManyStreamsError

log = logging.getLogger(__name__)

MOST_ID_CHARS = 128


def blueprint(relay: Relay, access: Access, streams: Streams) -> Blueprint:
    """The routes under /progress."""
    views = Blueprint("following", __name__)

    def viewer() -> Viewer | None:
        return access.viewer(keys_in(request.headers))

    @views.get("/progress/<request_id>")
    def follow(request_id: str) -> Response:
        who = viewer()
        if who is None:
            return _refuse(401, "unauthorized", "send an API key: Authorization: Bearer KEY")
        try:
            events = streams.follow(request_id, who, relay.runs.find(request_id))
        except TooManyStreamsError:
            return _refuse(503, "overloaded", "too many followers")
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
            return _refuse(401, "unauthorized", "send an operator's key: Authorization: Bearer KEY")
        return Response(json.dumps({**relay.counts(), "streams": streams.count}), content_type="application/json")

    return views


def _refuse(status: int, code: str, message: str) -> Response:
    body = {"error": {"code": code, "message": message, "retryable": status == 503}}  # noqa: PLR2004
    response = Response(json.dumps(body), status, content_type="application/json")
    if status == 401:  # noqa: PLR2004
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
