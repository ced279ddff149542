"""Clients that hold connections: one process has thousands of them, all from one address."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass

CONNECTS_PER_TURN = 200
"""New connections between two looks at those that exist."""

AGAIN_S = 1.0
"""After a connection was closed or refused, another is tried."""

LOOK_EVERY_S = 1.0
"""How often connections that don't read are checked for their end."""

ESTABLISHED = 1
"""The kernel's number for a TCP connection that neither side has closed."""

BIND_ADDRESS_NO_PORT = 24
"""Linux' option to choose a port when the peer is known, so that ports don't run out. Python has no name for it."""

PONG = bytes((0x81, 0x81, 0, 0, 0, 0)) + b"3"
"""What engine.io answers a ping with: the text "3", masked with zeros."""

PING = bytes((0x81, 0x01)) + b"2"


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to hold a connection."""

    name: str
    opening: bytes
    """What is sent at once."""
    again: bytes = b""
    """What is sent each time that `every_s` has passed."""
    every_s: float = 5.0
    reads: bool = True
    """Whether anything that comes is read."""


def kinds(key: str) -> tuple[Kind, ...]:
    """Return the ways that are tried. Only followers of events have a key: without one they would be refused."""
    host = b"Host: x\r\n"
    return (
        Kind(
            "WebSockets",
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n" + host + b"Connection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ),
        Kind("half-sent heads", b"POST /rerank HTTP/1.1\r\n" + host + b"X-Long: ", b"x"),
        Kind("slow bodies", b"POST /rerank HTTP/1.1\r\n" + host + b"Content-Length: 1000000\r\n\r\n", b"x"),
        Kind(
            "readers that never read",
            16 * (b"GET /openapi.json HTTP/1.1\r\n" + host + b"\r\n"),
            reads=False,
        ),
        Kind(
            "event streams", b"GET /progress/nobody HTTP/1.1\r\n" + host + b"X-Api-Key: " + key.encode() + b"\r\n\r\n"
        ),
    )


@dataclass(slots=True)
class Figures:
    """What became of the connections."""

    opened: int = 0
    ended: int = 0
    """Connections that the service closed."""
    held: int = 0


class Hostile:
    """Keeps `count` connections of one kind open; opens another for each that is closed."""

    def __init__(self, kind: Kind, port: int, count: int, source: str) -> None:
        self._kind = kind
        self._port = port
        self._count = count
        self._source = source
        self._selector = selectors.DefaultSelector()
        self._open: dict[socket.socket, float] = {}
        """Connection -> when it sends again."""
        self._waiting: deque[float] = deque([0.0] * count)
        """When a connection that is missing may be opened."""
        self._look_at = 0.0
        self.figures = Figures()

    def turn(self, wait_s: float = 0.05) -> None:
        """Open what is missing, read what came, send what is due."""
        now = time.monotonic()
        for _ in range(CONNECTS_PER_TURN):
            if not self._waiting or self._waiting[0] > now:
                break
            self._waiting.popleft()
            self._connect(now)
        for key, _ in self._selector.select(wait_s):
            self._hear(key.fileobj)
        if not self._kind.reads and now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self.look()
        if self._kind.again:
            for connection, due in list(self._open.items()):
                if due <= now:
                    self._open[connection] = now + self._kind.every_s
                    self._send(connection, self._kind.again)
        self.figures.held = len(self._open)

    def look(self) -> None:
        """Notice every connection that the service has closed."""
        for connection in [each for each in self._open if _state(each) != ESTABLISHED]:
            self._end(connection)

    def close(self) -> None:
        """Let go of all."""
        for connection in list(self._open):
            self._forget(connection)
        self._selector.close()

    def _connect(self, now: float) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_IP, BIND_ADDRESS_NO_PORT, 1)
        if not self._kind.reads:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(2.0)
        try:
            connection.bind((self._source, 0))
            connection.connect(("127.0.0.1", self._port))
        except OSError:
            connection.close()
            self._waiting.append(now + AGAIN_S)
            return
        connection.setblocking(False)
        self.figures.opened += 1
        self._open[connection] = now + self._kind.every_s
        self._selector.register(connection, selectors.EVENT_READ)
        self._send(connection, self._kind.opening)

    def _hear(self, connection: socket.socket) -> None:
        if connection not in self._open:
            return
        try:
            # A client that doesn't read only looks for the end.
            came = connection.recv(65536, 0 if self._kind.reads else socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            came = b""
        if not came:
            self._end(connection)
        elif not self._kind.reads:
            self._selector.unregister(connection)
        elif PING in came:
            self._send(connection, PONG)

    def _end(self, connection: socket.socket) -> None:
        self._forget(connection)
        self.figures.ended += 1
        self._waiting.append(time.monotonic() + AGAIN_S)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):  # its end is heard of
            connection.send(data)

    def _forget(self, connection: socket.socket) -> None:
        del self._open[connection]
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        connection.close()


def _state(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
