"""One access line a request to the pusher, in the same words as the webapp's."""

from __future__ import annotations

import logging
import re
import time

from flask import Flask, Response, g, request

from contracts.logging.levels import level_of

log = logging.getLogger("pusher.access")

_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

MOST_PATH_CHARS = 256


def install(app: Flask) -> None:
    """Run around every request but Socket.IO's, which nginx has lines of."""

    def begin() -> None:
        g.began = time.monotonic()

    def end(response: Response) -> Response:
        given = request.headers.get("X-Request-Id", "")  # nginx' own, or one that it found usable
        log.log(
            level_of(response.status_code, comes_later="Retry-After" in response.headers),
            "request",
            extra={
                "request_id": given if _USABLE_ID.fullmatch(given) else "",
                "method": request.method[:16],
                "path": request.path[:MOST_PATH_CHARS],
                "status": response.status_code,
                "duration_ms": round((time.monotonic() - g.began) * 1000, 3),
            },
        )
        return response

    app.before_request(begin)
    app.after_request(end)
