"""WebSockets of gevent's WSGI server for simple-websocket: one slow browser must not harm the others."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import gevent
from gevent.lock import RLock
from gevent.pywsgi import WSGIHandler

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

    def get_socket(self) -> WholeSends:
        """Return this socket; simple-websocket asks for it by this name."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Handler(WSGIHandler):  # type: ignore[misc] # gevent has no types
    """Serves one connection; gives simple-websocket our socket, where it looks for that of eventlet's server."""

    def get_environ(self) -> dict[str, Any]:
        """Return the WSGI environment of a request."""
        environ: dict[str, Any] = super().get_environ()
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            environ["eventlet.input"] = WholeSends(self.socket)
            # Compression is by connection: one delta would be deflated for each browser, each with a window in memory.
            environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return environ
