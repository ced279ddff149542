"""What every request carries: its id, its deadline, and one access line when it is done."""

from __future__ import annotations

import logging
import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

from pusher.events import key_in, owner_of
from webapp.telemetry.observer import Caller

log = logging.getLogger("webapp.access")

_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

QUIET_PATHS = frozenset({"/health", "/ready"})
"""Probes come every second; their access lines are debug."""


def install(app: Flask, *, request_timeout_s: float) -> None:
    """Run around every request."""

    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        g.began = time.monotonic()
        g.deadline = g.began + request_timeout_s
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        write = log.debug if request.path in QUIET_PATHS else log.info
        write(
            "request",
            extra={
                "method": request.method,
                "path": request.path,
                "status": response.status_code,
                "duration_ms": round((time.monotonic() - g.began) * 1000, 3),
                **g.get("access", {}),
            },
        )
        return response

    def forget(_error: BaseException | None) -> None:
        # What gunicorn logs between two requests of a connection belongs to none of them.
        structlog.contextvars.clear_contextvars()

    app.before_request(begin)
    app.teardown_request(forget)
    app.after_request(end)


def request_id() -> str:
    """The id of the current request, taken from its header or made."""
    value: str = g.request_id
    return value


def deadline() -> float:
    """Monotonic time at which the current request is given up."""
    value: float = g.deadline
    return value


def caller(dialect: str) -> Caller:
    """Whose request the current one is, for those who watch it."""
    key = key_in(request.headers)
    return Caller(request_id(), dialect, owner_of(key) if key else "")


def note(**fields: object) -> None:
    """Add figures to the access line of the current request. Never texts."""
    g.access = {**g.get("access", {}), **fields}
