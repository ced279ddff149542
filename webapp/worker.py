"""gunicorn's gevent worker, told when to be ready and when to leave."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from typing import TYPE_CHECKING, Any

from gunicorn.workers.ggevent import GeventWorker

if TYPE_CHECKING:
    from webapp.bootstrap import Webapp

BOOT_FAILED = 3
"""gunicorn's WORKER_BOOT_ERROR: the master gives up, and supervisor says so, instead of forking in a loop."""


class Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """One process of the webapp."""

    @property
    def webapp(self) -> Webapp:
        """What the master assembled; gunicorn loads this class before it does so."""
        from webapp.wsgi import webapp  # noqa: PLC0415

        return webapp

    def init_process(self) -> None:
        """Runs in the child, after the fork and before it serves."""
        self._idle: set[socket.socket] = set()
        # What the master made stays shared: the collector won't write into its pages.
        gc.freeze()
        super().init_process()

    def run(self) -> None:
        """Start the engine beside the server, and end it after."""
        self.webapp.start(self._started)
        try:
            super().run()
        finally:
            self.webapp.stop()
            # The interpreter must not be taken down under native threads that may still compute or compile.
            os._exit(0)

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """One connection, from accept to close."""
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """One request of a connection."""
        self._idle.discard(sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._idle.add(sock)

    def notify(self) -> None:
        """Heartbeat, once a second; while draining it also ends the connections that wait for another request.

        nginx keeps connections open in advance; left alone, each would hold the drain until it times out.
        """
        super().notify()
        if not self.alive:
            for connection in self._idle:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """TERM: not ready from now on; admitted requests finish."""
        self.webapp.service.drain()
        super().handle_exit(sig, frame)

    def _started(self, result: float | Exception) -> None:
        if isinstance(result, Exception):
            self.log.critical("the engine did not start", exc_info=result)
            os._exit(BOOT_FAILED)  # from a greenlet, sys.exit would end only that
        self.log.info("ready after %.2f s", result)
