"""The request that Flask serves now: its id, deadline, caller, body and dialect, and the memory that it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from flask import Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from webapp.api.body_reader import BodyKind, Reader, memory_of
from webapp.api.dialects.base import SMALL_BYTES, Call, Dialect
from webapp.api.dialects.registry import dialect_of, dialect_of_unread
from webapp.domain.errors import RerankError
from webapp.scheduling.admission import BODY_FACTOR, Arrival
from webapp.service.inflight import Watch
from webapp.service.reranker import RerankService
from webapp.telemetry.observer import Caller

PACKED_FACTOR = 8
"""A compressed body is charged for so many times its size until it is unpacked."""

STEP_BYTES = 64 * 1024
"""A body of unknown length is read in such pieces."""

WatchOf = Callable[[Mapping[str, Any]], AbstractContextManager[object]]
"""Returns a context that ends the work when the caller hangs up; takes the WSGI environment."""


def begin(request_id: str, timeout_s: float, reader: Reader, watch: WatchOf) -> None:
    """Set what every request has, before anything else looks at it."""
    g.request_id = request_id
    g.began = time.monotonic()
    g.deadline = g.began + timeout_s
    g.reader = reader
    g.watch = watch
    g.call = None


def request_id() -> str:
    """Return the request's id, taken from its header or made."""
    value: str = g.request_id
    return value


def elapsed_s() -> float:
    """Return the seconds since the request arrived."""
    began: float = g.began
    return time.monotonic() - began


def synthetic() -> bool:
    """Return whether the request is a test by one of our own programs; `auth` sets it."""
    value: bool = g.get("synthetic", False)
    return value


def address() -> str:
    """Return the address that the request comes from."""
    # The last entry is nginx' own; a client can write anything before it.
    return request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or request.remote_addr or ""


def caller() -> Caller:
    """Return the caller for observers of the service, and note that they see the request."""
    owner: str = g.get("owner", "")
    g.watched = True
    return Caller(request_id(), dialect().name, owner, owner or address(), synthetic())


def service_terms() -> tuple[float, Caller, Watch]:
    """Return the deadline, the caller and the watch over the connection, as `RerankService.rerank_all` takes them."""
    watch, environ = g.watch, request.environ
    return g.deadline, caller(), lambda: watch(environ)


def note(**fields: object) -> None:
    """Add figures to the access line of the request. Never texts."""
    g.access = {**g.get("access", {}), **fields}


def fail(error: RerankError) -> None:
    """Note why the request failed, for its access line and observers."""
    g.error = error


def path() -> str:
    """Return the request's path without a slash at its end."""
    return request.path.rstrip("/") or "/"


def set_dialect(dialect: Dialect) -> None:
    """Answer in this dialect from here on, errors too."""
    g.dialect = dialect


def dialect() -> Dialect:
    """Return the request's dialect; until a view has set it, guess by the path, the headers and a small body."""
    known: Dialect | None = g.get("dialect")
    if known is None:
        known = g.dialect = _guess_dialect()
    return known


def _guess_dialect() -> Dialect:
    taken: Call | None = g.call
    if taken is not None:
        return dialect_of_unread(taken) if taken.large else dialect_of(replace(taken, body=b""))
    call = Call(path() if request.url_rule else "", request.headers, b"")  # an unknown path tells no format
    length = request.content_length  # None: a GET, or chunks of unknown number
    if call.large or length is None or length > SMALL_BYTES:
        return dialect_of_unread(call)
    try:
        call = replace(call, body=request.get_data())
    except HTTPException:  # cut short: that may be the very error that is being reported
        return dialect_of_unread(call)
    return dialect_of_unread(call) if call.large else dialect_of(call)


@contextmanager
def admit(service: RerankService) -> Iterator[Arrival]:
    """Hold a place, and memory for the body, until the request is answered.

    Raises:
        RequestEntityTooLarge: the body is larger than any may be.
        OverloadedError: there is no place, or no memory.
    """
    _ = request.stream  # checks the length, and reads nothing
    with service.arrive(_expected_bytes()) as arrival:
        g.arrival = arrival
        yield arrival


def _expected_bytes() -> int:
    """Return the size of the body, unpacked; 0 if it is small, or comes in chunks so that its size is unknown."""
    length = request.content_length or 0
    if request.headers.get("Content-Encoding"):
        most: int = current_app.config["MAX_CONTENT_LENGTH"]
        length = min(length * PACKED_FACTOR, most)
    return length if length > SMALL_BYTES else 0


def read_call(model: str | None = None) -> Call:
    """Read the request's body, unparsed; `model` is the one that its path names.

    Raises:
        OverloadedError: its length was unknown, and there is no memory for it.
    """
    made = g.call = Call(
        path(), request.headers, _read_body(), request_id(), created_s=int(time.time()), model_url=model
    )
    return made


def _read_body() -> bytes:
    if request.content_length is not None:
        return request.get_data(cache=False)
    arrival: Arrival = g.arrival
    body = bytearray()
    while piece := request.stream.read(STEP_BYTES):
        body += piece
        if len(body) > SMALL_BYTES:
            arrival.needs(len(body) * BODY_FACTOR)
    return bytes(body)


def parse(kind: BodyKind, call: Call) -> Any:
    """Parse a body; see `webapp.api.body_reader`. A large one is given up when its caller hangs up.

    Raises:
        OverloadedError: it takes more memory than was expected, and there is no room for it.
    """
    reader: Reader = g.reader
    if not call.large:
        return reader(kind, call, g.deadline)
    with g.watch(request.environ):
        answer = reader(kind, call, g.deadline, g.get("owner", "") or address())
    if call.charged:
        call.body = b""  # the answer holds all that is needed of it
        arrival: Arrival = g.arrival
        arrival.needs(memory_of(answer))
    return answer


def hold_until_sent(response: Response, arrival: Arrival) -> Response:
    """Charge for a reply's memory until it was sent; return the reply."""
    arrival.replies(len(response.get_data()))
    response.call_on_close(arrival.gone)
    return response
