"""What every request carries: its id, its deadline, and one access line when it is done."""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from contracts.logging.line import level_of
from webapp.api import reservation
from webapp.api.body_reader import Reader, What, memory_of
from webapp.api.dialects.base import SMALL_BYTES, Call, Dialect
from webapp.api.dialects.registry import dialect_of, dialect_of_unread
from webapp.domain.errors import InvalidRequestError, RerankError
from webapp.service.inflight import Watch
from webapp.telemetry.observer import Caller

log = logging.getLogger("webapp.access")

_USABLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

QUIET_PATHS = frozenset(
    {
        *("/health", "/live", "/ping", "/ready", "/v1/health", "/v1/health/live", "/v1/health/ready"),
        *("/.well-known/live", "/.well-known/ready", "/infinity/health"),
    }
)
"""Probes come every second; their access lines are debug, whatever the answer is. nginx has none of them."""

MOST_PATH_CHARS = 256

TIMEOUT_HEADER = "X-Request-Timeout"
"""Seconds after which the caller no longer wants an answer; the service's own limit is the most it gets."""


WatchOf = Callable[[Mapping[str, Any]], AbstractContextManager[object]]
"""Watches over the caller of a request, of which it gets the WSGI environment."""


def nobody_watches(_environ: Mapping[str, Any]) -> AbstractContextManager[object]:
    """Who hangs up is served to the end."""
    return nullcontext()


def install(app: Flask, *, request_timeout_s: float, reader: Reader, watch: WatchOf = nobody_watches) -> None:
    """Run around every request; `reader` reads their bodies."""

    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        g.began = time.monotonic()
        g.deadline = g.began + request_timeout_s
        g.watch = watch
        g.reader = reader
        g.call = None
        structlog.contextvars.bind_contextvars(request_id=g.request_id)
        wanted = request.headers.get(TIMEOUT_HEADER)
        if wanted is not None:
            g.deadline = g.began + min(_seconds(wanted), request_timeout_s)

    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = request_id()
        failed: RerankError | None = g.get("error")
        level = level_of(response.status_code, comes_later="Retry-After" in response.headers)
        log.log(
            logging.DEBUG if request.path in QUIET_PATHS else level,
            "request",
            extra={
                "method": request.method[:16],
                "path": request.path[:MOST_PATH_CHARS],
                "status": response.status_code,
                "duration_ms": round((time.monotonic() - g.began) * 1000, 3),
                **({"code": failed.code, "field": failed.field or ""} if failed else {}),
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


def elapsed_s() -> float:
    """Since the current request arrived."""
    began: float = g.began
    return time.monotonic() - began


def fail(error: RerankError) -> None:
    """The current request failed."""
    g.error = error


def terms() -> tuple[float, Caller, Watch]:
    """On what terms the current request is served: its deadline, its caller, and who watches over that."""
    watch, environ = g.watch, request.environ
    return g.deadline, caller(), lambda: watch(environ)


def call(model: str | None = None, *, created_s: int = 0) -> Call:
    """Take the body of the current request; `model` is what its path names, `created_s` is Unix time."""
    body = reservation.read_body()
    made = g.call = Call(_path(), request.headers, body, request_id(), created_s=created_s, model_url=model)
    return made


def read(what: What, call: Call) -> Any:
    """Read a body; see `webapp.api.body_reader`. A large one is given up when its caller hangs up."""
    reader: Reader = g.reader
    if not call.large:
        return reader(what, call, g.deadline)
    with g.watch(request.environ):
        answer = reader(what, call, g.deadline, g.get("owner", "") or address())
    if call.charged:
        call.body = b""  # what was read of it is all that is needed
        reservation.needs(memory_of(answer))
    return answer


def _path() -> str:
    return request.path.rstrip("/") or "/"


def speak(dialect: Dialect) -> None:
    """Answer in this dialect from here on, errors too."""
    g.dialect = dialect


def dialect() -> Dialect:
    """The dialect of the current request; where no view has read it, as its path, headers and a small body tell."""
    known: Dialect | None = g.get("dialect")
    if known is None:
        known = g.dialect = _recognise()
    return known


def _recognise() -> Dialect:
    taken: Call | None = g.call
    if taken is not None:
        return dialect_of_unread(taken) if taken.large else dialect_of(replace(taken, body=b""))
    path = _path() if request.url_rule else ""  # an unknown path tells no format
    call = Call(path, request.headers, b"")
    length = request.content_length  # None: a GET, or chunks of which nobody knows how many come
    if call.large or length is None or length > SMALL_BYTES:
        return dialect_of_unread(call)
    try:
        call = replace(call, body=request.get_data())
    except HTTPException:  # cut short: that may be the very error that is being told
        return dialect_of_unread(call)
    return dialect_of_unread(call) if call.large else dialect_of(call)


def _seconds(wanted: str) -> float:
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequestError("must be a positive number of seconds", field=TIMEOUT_HEADER)
    return seconds


def caller() -> Caller:
    """Whose request the current one is, for those who watch it."""
    owner: str = g.get("owner", "")
    g.watched = True
    return Caller(request_id(), dialect().name, owner, owner or address(), synthetic())


def synthetic() -> bool:
    """Return whether one of our own programs only tries the service out; `auth` says so."""
    value: bool = g.get("synthetic", False)
    return value


def address() -> str:
    """Where the current request comes from."""
    # The last entry is nginx' own; what a client wrote before it is only its word.
    return request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or request.remote_addr or ""


def note(**fields: object) -> None:
    """Add figures to the access line of the current request. Never texts."""
    g.access = {**g.get("access", {}), **fields}
