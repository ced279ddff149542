"""What runs around every request: its id and deadline before, its access line and the observers of replies after."""

from __future__ import annotations

import logging
import math
import time
import uuid
from contextlib import suppress
from typing import Any

from flask import Flask, Response, g, request

from contracts.events import USABLE_ID
from contracts.logging.configure import request_id_of_lines
from contracts.logging.line import access_fields, level_of
from webapp.api.body_reader import Reader
from webapp.api.current_request import CurrentRequest, WatchOf, current
from webapp.api.probes import LIVE, READY
from webapp.domain.errors import InvalidRequestError
from webapp.telemetry.observer import Observer, Reply

access_log = logging.getLogger("webapp.access")

NO_ROUTE = "unmatched"
"""The route of all unknown paths together: anyone can make up any number of them."""

TIMEOUT_HEADER = "X-Request-Timeout"
"""Seconds after which the caller no longer wants an answer; the service's own limit is the most it gets."""


def install(
    app: Flask,
    *,
    request_timeout_s: float,
    reader: Reader,
    watch: WatchOf,
    observer: Observer,
) -> None:
    """Run around every request.

    Args:
        app: the application.
        request_timeout_s: longest time one request may take.
        reader: reads bodies.
        watch: watches over the caller's connection; by default work goes on when the caller hangs up.
        observer: gets every reply that is not synthetic.
    """

    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        began = time.monotonic()
        g.state = state = CurrentRequest(request_id, began, began + request_timeout_s, reader, watch)
        request_id_of_lines.set(request_id)
        if (wanted := request.headers.get(TIMEOUT_HEADER)) is not None:
            state.deadline = began + min(_seconds(wanted), request_timeout_s)

    def forget(_error: BaseException | None) -> None:
        # What gunicorn logs between two requests of a connection belongs to none of them.
        request_id_of_lines.set("")

    def observe(response: Response) -> Response:
        state = current()
        if state.synthetic:
            return response
        http: Any = request
        http = http._get_current_object()  # noqa: SLF001 - documented; each look through the proxy costs a microsecond
        reply = Reply(
            http.method,
            http.url_rule.rule if http.url_rule else NO_ROUTE,
            state.known_dialect.name if state.known_dialect else "none",
            response.status_code,
            state.elapsed_s,
            state.id,
            http.headers,
            state.facts,
            state.error,
            state.owner,
            state.observed,
        )
        observer.replied(reply)
        return response

    app.before_request(begin)
    app.teardown_request(forget)
    app.after_request(_log_access)  # the last: Flask runs them in reverse
    app.after_request(observe)


def _seconds(wanted: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(wanted)) < math.inf:
            return seconds
    raise InvalidRequestError("must be a positive number of seconds", field=TIMEOUT_HEADER)


def _log_access(response: Response) -> Response:
    state = current()
    response.headers["X-Request-Id"] = state.id
    level = level_of(response.status_code, comes_later="Retry-After" in response.headers)
    # Probes come every second; their access lines are debug, whatever the answer is. nginx logs none of them.
    probe = request.path in LIVE or request.path in READY
    access_log.log(
        logging.DEBUG if probe else level,
        "request",
        extra={
            **access_fields(request.method, request.path, response.status_code, state.elapsed_s),
            **({"code": state.error.code, "field": state.error.field or ""} if state.error else {}),
            **state.facts,
        },
    )
    return response
