"""What a worker does when no file descriptor is left for another connection.

nginx keeps connections open in advance, and each holds a descriptor: without help, new connections would wait for idle
ones. So the idle ones are closed, and while descriptors are short each connection serves one request only.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import logging
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

RETRY_S = 0.05
"""gevent's server accepts again so long after a failed accept."""

SHORT_S = 1.0
"""Descriptors are taken to be short for so long after the last failed accept."""

LOG_EVERY_S = 60.0

SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE})


class FdShortage:
    """Handles EMFILE and ENFILE before gevent's own handler of uncaught errors, where a failed accept ends up."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._kept: set[socket.socket] = set()
        self._short_until = self._log_at = clock()

    def wrap(self, unhandled: Callable[..., None]) -> Callable[..., None]:
        """Return an error handler that handles a shortage, and passes other errors on."""

        def handle_error(context: Any, kind: Any, error: Any, traceback: Any) -> None:
            if isinstance(error, OSError) and error.errno in SHORTAGE:
                self.run_out()
            else:
                unhandled(context, kind, error, traceback)

        return handle_error

    def run_out(self) -> None:
        """Handle a shortage: log it and close idle keep-alive connections."""
        now = self._clock()
        if now >= self._log_at:
            self._log_at = now + LOG_EVERY_S
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            self._log.error("all file descriptors are in use, the limit is %d: connections wait; raise it", limit)
        self._short_until = now + SHORT_S
        for connection in self._kept:
            hang_up(connection)
        self._kept.clear()

    def answered(self, connection: socket.socket) -> None:
        """Record that a connection has its answer, and may be used for another request."""
        if self._clock() < self._short_until:
            hang_up(connection)
        else:
            self._kept.add(connection)

    def busy(self, connection: socket.socket) -> None:
        """Record that a connection is in use, or was closed."""
        self._kept.discard(connection)


def hang_up(connection: socket.socket) -> None:
    """Close both ways; a greenlet that waits for a request there sees its end.

    Not by gevent's own `shutdown`: that raises in the waiting greenlet, and gunicorn logs an error for each. Not needed
    once gevent can shut a socket down without that.
    """
    with contextlib.suppress(OSError, ValueError):  # the other side was first; it is closed
        native = _socket.socket(fileno=connection.fileno())
        try:
            native.shutdown(socket.SHUT_RDWR)
        finally:
            native.detach()
