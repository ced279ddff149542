"""gunicorn's gevent worker, with the engine beside the server, and a drain that loses no request."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent.server import StreamServer
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from webapp.domain.concurrency import AwakeClock
from webapp.domain.errors import reason_of
from webapp.servers.gunicorn.fd_shortage import RETRY_S, FdShortage, hang_up
from webapp.telemetry.worker_stats import rss_bytes

if TYPE_CHECKING:
    from webapp.servers.assembly import Webapp

BOOT_FAILED = 3
"""gunicorn's WORKER_BOOT_ERROR: the master gives up, and supervisor says so, instead of forking in a loop."""

ENGINE_LOST = 1
"""Any code but gunicorn's own two: the master forks another worker."""

STANDSTILL_S = 5.0
"""gunicorn's master looks at its workers once a second; longer than this between two looks, it stood still."""

GRACE_S = 10.0
"""A worker beats once a second; after a standstill the master waits this long before it kills one that does not."""

YOUNGEST_S = 30.0
"""A limit below what a fresh worker takes must not fork workers in a tight loop."""

PIECE_BYTES = 256 * 1024
"""Bytes of a body that are read or sent at once; other requests have their turn after each."""


def with_grace(murder: Callable[[Any], None], clock: Callable[[], float] = time.monotonic) -> Callable[[Any], None]:
    """Return a `murder_workers` for gunicorn's master that kills no worker in the first seconds after a standstill.

    Where the whole machine stood still, workers could not beat. Not needed once gunicorn notices that itself.
    """
    awake = AwakeClock(STANDSTILL_S, clock)

    def murder_with_grace(master: Any) -> None:
        if awake.look() >= GRACE_S:
            murder(master)

    return murder_with_grace


class Log(Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's own log, without access lines: `webapp.api.middleware` writes those.

    With a `logconfig_dict` it would format each line, whatever the level, which is a tenth of a small request. Not
    needed once gunicorn lets a setting turn access lines off beside a `logconfig_dict`.
    """

    access_log_enabled = False


class Body:
    """A request's body that lets others work while it is read: nginx may write as fast as we read, all 32 MB.

    Not needed once gevent's sockets yield to the hub when data is always there.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._read = 0

    def read(self, size: int | None = None) -> bytes:
        """Read up to `size` bytes."""
        part: bytes = self._body.read(size)
        self._read += len(part)
        if self._read >= PIECE_BYTES:
            self._read = 0
            gevent.sleep(0)
        return part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


class HeadWithBody:
    """A connection that sends a reply's head together with the first part of its body.

    gunicorn sends them apart. A worker killed in between leaves nginx with a head that it has passed on already, so it
    can't ask another worker: the one request in thousands that a death would cost. Not needed once gunicorn sends
    both in one call.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._head: bytes | None = None
        self._sent = False

    def sendall(self, data: bytes) -> None:
        """Hold the first piece, send it with the second."""
        if self._sent:
            self._connection.sendall(data)
        elif self._head is None:
            self._head = data
        else:
            self._sent = True
            self._connection.sendall(self._head + data[:PIECE_BYTES])
            for start in range(PIECE_BYTES, len(data), PIECE_BYTES):
                gevent.sleep(0)  # nginx may read as fast as we write, and sendall would never wait
                self._connection.sendall(data[start : start + PIECE_BYTES])

    def flush(self) -> None:
        """Send a head that no body followed."""
        if self._head is not None and not self._sent:
            self._sent = True
            self._connection.sendall(self._head)

    def sendfile(self, *arguments: Any, **options: Any) -> Any:
        """Send the head, then have the kernel send the file."""
        self.flush()
        return self._connection.sendfile(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class MemoryLimit:
    """A limit to a worker's memory that asks once for a replacement; `due` is called once a second.

    Memory is kept flat by design; this is for leaks that are not found yet.
    """

    def __init__(
        self, limit_bytes: int, rss_bytes: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin in the worker, whose age counts.

        Args:
            limit_bytes: 0: never.
            rss_bytes: resident memory of this process.
            clock: monotonic seconds.
        """
        self._limit_bytes = limit_bytes
        self._rss_bytes = rss_bytes
        self._clock = clock
        self._not_before = clock() + YOUNGEST_S
        self._asked = False

    def due(self) -> int:
        """Return the worker's size in bytes when it is time to replace it, once; else 0."""
        if not self._limit_bytes or self._asked or self._clock() < self._not_before:
            return 0
        size = self._rss_bytes()
        self._asked = size > self._limit_bytes
        return size if self._asked else 0


class Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """One process of the webapp."""

    sockets: list[Any]
    """Where gunicorn listens."""

    @property
    def webapp(self) -> Webapp:
        """The webapp that the master assembled; gunicorn loads this class before that."""
        from webapp.servers.gunicorn.wsgi import webapp  # noqa: PLC0415

        return webapp

    def init_process(self) -> None:
        """Prepare the worker, in the child after the fork."""
        self._idle: set[socket.socket] = set()
        self._servers: list[StreamServer] = []
        # The master's objects stay in shared pages: the collector won't write into them.
        gc.freeze()
        self._fd_shortage = FdShortage(self.log)
        super().init_process()

    def patch(self) -> None:
        """Give the listeners gevent's sockets. gunicorn would patch subprocess, too; see gunicorn_config.py."""
        self.sockets = [
            socket.socket(each.FAMILY, socket.SOCK_STREAM, fileno=each.sock.detach()) for each in self.sockets
        ]

    def run(self) -> None:
        """Run the engine beside the server, and end it after."""
        self._recycling = MemoryLimit(self.webapp.max_rss_bytes, rss_bytes)
        StreamServer.max_delay = RETRY_S
        # Not needed once gevent's server tells its owner that an accept failed.
        hub = gevent.get_hub()
        hub.handle_error = self._fd_shortage.wrap(hub.handle_error)
        self.webapp.start(self._started, self._broken)
        try:
            super().run()
        finally:
            try:
                self.webapp.stop()
            except Exception:
                self.log.exception("not all was stopped in order")
            # The interpreter must not be taken down under native threads that may still compute or compile.
            os._exit(0)

    def server_class(self, listener: socket.socket, *, spawn: Any, **_: Any) -> StreamServer:
        """Return the server of one listener. It is kept, to be closed the moment TERM comes.

        Not needed once gunicorn closes its listeners at TERM, and not up to a second later.
        """
        server = StreamServer(listener, handle=partial(self.handle, listener), spawn=spawn)
        if self.cfg.workers > 1:
            server.max_accept = 1  # one connection per wake-up, to share load between workers
        self._servers.append(server)
        return server

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve one connection, from accept to close."""
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)
            self._fd_shortage.busy(client)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """Serve one request of a connection."""
        self._idle.discard(sock)
        self._fd_shortage.busy(sock)
        whole = HeadWithBody(sock)
        req.body = Body(req.body)
        try:
            super().handle_request(listener_name, req, whole, addr)
        finally:
            with contextlib.suppress(OSError):  # the client is gone
                whole.flush()
            self._idle.add(sock)
            self._fd_shortage.answered(sock)

    def notify(self) -> None:
        """Beat, once a second; while draining also close the connections that wait for another request.

        nginx keeps connections open in advance; left alone, each would hold the drain until it times out.
        """
        super().notify()
        if self.alive and (size := self._recycling.due()):  # else it is being replaced
            # HUP forks the new workers first, and drains the old ones then: no client is refused.
            self.log.warning("this worker takes %d MB; workers are replaced", size // 1024**2)
            os.kill(self.ppid, signal.SIGHUP)
        if not self.alive:
            for connection in self._idle:
                hang_up(connection)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Drain at TERM: close the listeners now, not up to a second later as gunicorn would; a successor takes over.

        Requests that still come through open connections were accepted, as far as nginx knows: they are answered, and
        each closes its connection.
        """
        self.webapp.leave()
        super().handle_exit(sig, frame)
        gevent.get_hub().loop.run_callback_threadsafe(self._close_servers)

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        for connection in self._idle:
            hang_up(connection)

    def _started(self, result: float | Exception) -> None:
        if isinstance(result, Exception):
            # No request was near: the log may have its message.
            self.log.critical("the engine did not start: %s", reason_of(result), exc_info=result)
            os._exit(BOOT_FAILED)  # from a greenlet, sys.exit would end only that
        self.log.info("ready after %.2f s", result)

    def _broken(self, fault: str) -> None:
        """End the worker: its engine is lost. nginx repeats unanswered requests at the worker that is forked next."""
        self.log.critical("%s; this worker ends", fault)
        os._exit(ENGINE_LOST)
