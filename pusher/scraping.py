"""GET /figures: what the exporter asks for /metrics. nginx passes nobody here, and the socket is this user's alone."""

from __future__ import annotations

import json
from collections.abc import Callable

from flask import Blueprint, Response

from pusher.relay import Relay


def blueprint(
    relay: Relay, *, sockets: Callable[[], int], streams: Callable[[], int], stalled: Callable[[], int]
) -> Blueprint:
    """One route.

    Args:
        relay: what was heard.
        sockets: connected browsers.
        streams: followers by server-sent events.
        stalled: browsers that were let go because they did not read.
    """
    views = Blueprint("scraping", __name__)

    @views.get("/figures")
    def figures() -> Response:
        counts = {**relay.counts(), "sockets": sockets(), "streams": streams(), "stalled": stalled()}
        return Response(json.dumps(counts), content_type="application/json")

    return views
