"""Patches of simple-websocket under gevent's WSGI server: one slow browser must not harm the others."""

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
"""One message may take this long; a browser whose window stays full does not read."""


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
        """Send all of it; after `SEND_S`, disconnect and raise an OSError."""
        try:
            with self._lock, gevent.Timeout(SEND_S, TimeoutError("the browser does not read")):
                self._connection.sendall(data)
        except OSError:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # wakes the reader too, which closes
            raise
        return len(data)

    def dup(self) -> Any:
        """Refuse a duplicate; simple-websocket then takes the original."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Input:
    """A `wsgi.input` in which simple-websocket finds the socket: `raw._sock`."""

    def __init__(self, connection: Any) -> None:
        self.raw = self
        self._sock = WholeSends(connection)


class WebSocketPatches:
    """WSGI middleware around everything."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Patch the environment of a WebSocket; see WSGI."""
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            given = environ["wsgi.input"]
            reader = given if hasattr(given, "raw") else given.rfile
            environ["wsgi.input"] = _Input(reader.raw._sock)  # noqa: SLF001
            # Compression is by connection: one delta would be deflated for each browser, each with a window in memory.
            environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer
