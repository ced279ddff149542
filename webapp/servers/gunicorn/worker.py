"""gunicorn's gevent worker, told when to be ready and when to leave."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent.server import StreamServer
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from webapp.domain.errors import reason_of
from webapp.servers.gunicorn.fd_shortage import RETRY_S, FdShortage, hang_up
from webapp.servers.gunicorn.memory_limit import MemoryLimit
from webapp.telemetry.worker_stats import rss_bytes

if TYPE_CHECKING:
    from webapp.servers.assembly import Webapp

BOOT_FAILED = 3
"""gunicorn's WORKER_BOOT_ERROR: the master gives up, and supervisor says so, instead of forking in a loop."""


ENGINE_LOST = 1
"""Any code but gunicorn's own two: the master forks another worker."""


class Log(Logger):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's own log, without access lines: `webapp.api.middleware` writes those.

    With a `logconfig_dict` it would make up each line, whatever the level, and that is a tenth of a small request.
    """

    access_log_enabled = False


PIECE_BYTES = 256 * 1024
"""Of a body that comes or goes; others have their turn after each."""


class Body:
    """A request's body that lets others work while it is read: nginx may write as fast as we read, all 32 MB."""

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
    can't ask another worker: the one request in thousands that a death would cost.
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
        """The kernel sends files; the head goes before."""
        self.flush()
        return self._connection.sendfile(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """One process of the webapp."""

    @property
    def webapp(self) -> Webapp:
        """What the master assembled; gunicorn loads this class before it does so."""
        from webapp.servers.gunicorn.wsgi import webapp  # noqa: PLC0415

        return webapp

    def init_process(self) -> None:
        """Runs in the child, after the fork and before it serves."""
        self._idle: set[socket.socket] = set()
        self._doors: list[StreamServer] = []
        # What the master made stays shared: the collector won't write into its pages.
        gc.freeze()
        self._descriptors = FdShortage(self.log)
        super().init_process()

    def run(self) -> None:
        """Start the engine beside the server, and end it after."""
        self._recycling = MemoryLimit(self.webapp.max_rss_bytes, rss_bytes)
        StreamServer.max_delay = RETRY_S
        hub = gevent.get_hub()
        hub.handle_error = self._descriptors.stand_before(hub.handle_error)
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
        """What gunicorn makes for each listener. It is kept, to be closed the moment TERM comes."""
        door = StreamServer(listener, handle=partial(self.handle, listener), spawn=spawn)
        if self.cfg.workers > 1:
            door.max_accept = 1  # the others shall have some, too
        self._doors.append(door)
        return door

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """One connection, from accept to close."""
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)
            self._descriptors.busy(client)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """One request of a connection."""
        self._idle.discard(sock)
        self._descriptors.busy(sock)
        whole = HeadWithBody(sock)
        req.body = Body(req.body)
        try:
            super().handle_request(listener_name, req, whole, addr)
        finally:
            with contextlib.suppress(OSError):  # the client is gone
                whole.flush()
            self._idle.add(sock)
            self._descriptors.answered(sock)

    def notify(self) -> None:
        """Heartbeat, once a second; while draining it also ends the connections that wait for another request.

        nginx keeps connections open in advance; left alone, each would hold the drain until it times out.
        """
        super().notify()
        if self.alive and (size := self._recycling.due()):  # else it is being replaced
            # HUP forks the new workers first, and drains the old ones then: nobody finds the door closed.
            self.log.warning("this worker takes %d MB; workers are replaced", size // 1024**2)
            os.kill(self.ppid, signal.SIGHUP)
        if not self.alive:
            for connection in self._idle:
                hang_up(connection)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """TERM: the door closes now, and not up to a second later as gunicorn would: our successor takes what comes.

        Whatever still comes through our connections was accepted, as far as nginx knows: it is answered, and closes
        them.
        """
        self.webapp.leave()
        super().handle_exit(sig, frame)
        gevent.get_hub().loop.run_callback_threadsafe(self._close_doors)

    def _close_doors(self) -> None:
        for door in self._doors:
            door.close()
        for connection in self._idle:
            hang_up(connection)

    def init_signals(self) -> None:
        """USR2, from `reranking drain`: refuse what comes from now on. TERM follows once balancers have noticed."""
        super().init_signals()
        signal.signal(signal.SIGUSR2, lambda *_: self.webapp.drain())

    def _started(self, result: float | Exception) -> None:
        if isinstance(result, Exception):
            # No request was near: its words may be told.
            self.log.critical("the engine did not start: %s", reason_of(result), exc_info=result)
            os._exit(BOOT_FAILED)  # from a greenlet, sys.exit would end only that
        self.log.info("ready after %.2f s", result)

    def _broken(self, fault: str) -> None:
        """The engine can't go on here. nginx gives what is unanswered to the worker that the master forks next."""
        self.log.critical("%s; this worker ends", fault)
        os._exit(ENGINE_LOST)
