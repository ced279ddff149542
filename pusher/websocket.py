"""Mends for simple-websocket under gevent's WSGI server; both are about one slow browser among many."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Any

import gevent
from gevent.lock import RLock

SILENCE_S = 20.0
"""A connection that neither reads nor answers a ping for this long is dead (ping interval and timeout, and a bit)."""


SEND_S = 10.0
"""One message may take this long; a browser whose window stays full doesn't read."""


class WholeSends:
    """A socket whose `send` sends everything.

    simple-websocket calls `send` once and trusts it. gevent's may send a part, when a browser's window is nearly full:
    the rest would be missing in the middle of the stream.
    """

    def __init__(self, connection: Any) -> None:
        connection.settimeout(SILENCE_S)
        self._connection = connection
        self._lock = RLock()  # the writer's frames and the reader's pongs must not mix

    def send(self, data: bytes) -> int:
        """All of it; or, after `SEND_S`, hang up and raise an OSError."""
        try:
            with self._lock, gevent.Timeout(SEND_S, TimeoutError("the browser does not read")):
                self._connection.sendall(data)
        except OSError:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # wakes the reader too, which closes
            raise
        return len(data)

    def dup(self) -> Any:
        """simple-websocket asks for a duplicate, and takes the original for this answer."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Input:
    """Stands for `wsgi.input`, where simple-websocket looks for the socket: `raw._sock`."""

    def __init__(self, connection: Any) -> None:
        self.raw = self
        self._sock = WholeSends(connection)


class WebSocketPatches:
    """WSGI middleware around everything."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            given = environ["wsgi.input"]
            reader = given if hasattr(given, "raw") else given.rfile
            environ["wsgi.input"] = _Input(reader.raw._sock)  # noqa: SLF001
            # Compression is by connection: the same delta would be deflated five hundred times, each with its window.
            environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer
