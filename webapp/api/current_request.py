"""The request that Flask serves now: its id, deadline, caller, body and dialect, and the memory that it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flask import Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from contracts.api_keys import Key
from webapp.api.body_reader import BodyKind, Reader, memory_of
from webapp.api.dialects.base import SMALL_BYTES, Call, Dialect
from webapp.api.dialects.registry import dialect_of, dialect_of_unread
from webapp.domain.errors import RerankError
from webapp.scheduling.admission import BODY_FACTOR, Arrival
from webapp.service.inflight import CallOptions
from webapp.service.reranker import RerankService
from webapp.telemetry.observer import Caller

PACKED_FACTOR = 8
"""A compressed body is charged for so many times its size until it is unpacked."""

STEP_BYTES = 64 * 1024
"""A body of unknown length is read in such pieces."""

WatchOf = Callable[[Mapping[str, Any]], AbstractContextManager[object]]
"""Returns a context that ends the work when the caller hangs up; takes the WSGI environment."""


@dataclass(slots=True, eq=False)
class CurrentRequest:
    """State of one request, from its arrival until its reply is gone."""

    id: str
    """From its header, or made."""
    began: float
    """Monotonic."""
    deadline: float
    """Monotonic time at which the caller stops waiting."""
    reader: Reader
    watch: WatchOf
    key: Key | None = None
    owner: str = ""
    """`contracts.events.owner_of` the caller's key; empty where no keys are asked for."""
    synthetic: bool = False
    """Whether it is a test by one of our own programs."""
    observed: bool = False
    """Whether observers of the service see it."""
    facts: dict[str, object] = field(default_factory=dict)
    """Figures for the access line. Never texts."""
    error: RerankError | None = None
    """Why it failed."""
    known_dialect: Dialect | None = None
    call: Call | None = None
    arrival: Arrival = field(init=False)
    """Its place; from `admitted` on."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.began

    def caller(self) -> Caller:
        """Return the caller for observers of the service, and note that they see the request."""
        self.observed = True
        return Caller(self.id, self.dialect().name, self.owner, self.owner or address(), self.synthetic)

    def options(self) -> CallOptions:
        """Return what all its parts share when they are scored."""
        return CallOptions(self.deadline, self.caller(), partial(self.watch, request.environ), arrived=True)

    def dialect(self) -> Dialect:
        """Return the dialect; until a view has set it, guess by the path, the headers and a small body."""
        if self.known_dialect is None:
            self.known_dialect = self._guess_dialect()
        return self.known_dialect

    def _guess_dialect(self) -> Dialect:
        if self.call is not None:
            return dialect_of_unread(self.call) if self.call.large else dialect_of(replace(self.call, body=b""))
        call = Call(_path() if request.url_rule else "", request.headers, b"")  # an unknown path tells no format
        length = request.content_length  # None: a GET, or chunks of unknown number
        if call.large or length is None or length > SMALL_BYTES:
            return dialect_of_unread(call)
        try:
            call = replace(call, body=request.get_data())
        except HTTPException:  # cut short: that may be the very error that is being reported
            return dialect_of_unread(call)
        return dialect_of_unread(call) if call.large else dialect_of(call)

    @contextmanager
    def admitted(self, service: RerankService) -> Iterator[None]:
        """Hold a place, and memory for the body, until the request is answered.

        Raises:
            RequestEntityTooLarge: the body is larger than any may be.
            OverloadedError: there is no place, or no memory.
        """
        _ = request.stream  # checks the length, and reads nothing
        with service.admission.arrive(_expected_bytes()) as self.arrival:
            yield

    def read_call(self, model: str | None = None, *, created_s: int = 0) -> Call:
        """Read the body, unparsed; `model` is the one that the path names, `created_s` is Unix time.

        Raises:
            OverloadedError: its length was unknown, and there is no memory for it.
        """
        body = request.get_data(cache=False) if request.content_length is not None else self._read_chunks()
        self.call = Call(_path(), request.headers, body, self.id, created_s=created_s, model_url=model)
        return self.call

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while piece := request.stream.read(STEP_BYTES):
            body += piece
            if len(body) > SMALL_BYTES:
                self.arrival.needs(len(body) * BODY_FACTOR)
        return bytes(body)

    def parse(self, kind: BodyKind, call: Call) -> Any:
        """Parse a body; see `webapp.api.body_reader`. A large one is given up when its caller hangs up.

        Raises:
            OverloadedError: it takes more memory than was expected, and there is no room for it.
        """
        if not call.large:
            return self.reader(kind, call, self.deadline)
        with self.watch(request.environ):
            answer = self.reader(kind, call, self.deadline, self.owner or address())
        if call.charged:
            call.body = b""  # the answer holds all that is needed of it
            self.arrival.needs(memory_of(answer))
        return answer

    def hold_until_sent(self, response: Response) -> Response:
        """Charge for a reply's memory until it was sent; return the reply."""
        self.arrival.replies(len(response.get_data()))
        response.call_on_close(self.arrival.gone)
        return response


def current() -> CurrentRequest:
    """Return the request that is served now; `middleware` puts it there."""
    state: CurrentRequest = g.state
    return state


def address() -> str:
    """Return the address that the current request comes from."""
    # The last entry is nginx' own; a client can write anything before it.
    return request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or request.remote_addr or ""


def _path() -> str:
    """Return the path without a slash at its end."""
    return request.path.rstrip("/") or "/"


def _expected_bytes() -> int:
    """Return the size of the body, unpacked; 0 if it is small, or comes in chunks so that its size is unknown."""
    length = request.content_length or 0
    if request.headers.get("Content-Encoding"):
        most: int = current_app.config["MAX_CONTENT_LENGTH"]
        length = min(length * PACKED_FACTOR, most)
    return length if length > SMALL_BYTES else 0
