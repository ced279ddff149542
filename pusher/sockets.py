"""Browsers by Socket.IO: which may connect, which rooms they join, and what is sent to them.

A slow browser holds up no other: packets wait for each by itself, `BoundedWebSocket` bounds one send, and
`disconnect_stalled` ends a browser that is too far behind. `streams` does the same for server-sent events.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import gevent
from engineio.async_drivers.gevent import WebSocketWSGI
from flask import Flask, request
from flask_socketio import ConnectionRefusedError as RefuseConnection
from flask_socketio import SocketIO, join_room, leave_room
from gevent.lock import RLock

from contracts.events import USABLE_ID
from pusher.access import OVERVIEW, Access, Viewer, room_for, rooms_of
from pusher.relay import Relay, Update

log = logging.getLogger(__name__)

PING_S = 5
"""Interval of pings. nginx disconnects a pusher that is silent for twice as long (nginx.conf.j2)."""

PONG_S = 10
"""How long an answer to a ping may take."""

SILENCE_S = 20.0
"""A connection that neither reads nor answers a ping for this long is dead (ping interval and timeout, and a bit)."""

SEND_S = 10.0
"""One message may take this long; a browser whose window stays full does not read."""

MOST_RECEIVED_BYTES = 16 * 1024
"""Longest message of a browser: they send ids, not documents."""

MOST_QUEUED = 40
"""Most packets that wait for one browser: ten seconds of deltas. One that is further behind is disconnected; when it
reads again it connects anew, and gets a snapshot."""

MOST_FOLLOWED = 50
"""Requests that one connection may follow at once."""

SNAPSHOT_EVERY_S = 0.5
"""A browser gets at most one snapshot in this time."""

NAMESPACE = "/"
"""Namespace of all events."""

JOIN_S = 10.0
"""A connection that has not been let in after this long is closed: it has shown no key, or asked for nothing."""

MOST_STRANGERS = 500
"""Most connections that have not been let in yet; beyond that the oldest are closed at once."""


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


class BoundedWebSocket(WebSocketWSGI):  # type: ignore[misc] # gevent has no types
    """A WebSocket of engine.io that bounds what its browser sends, and how long a send to it takes."""

    def __init__(self, handler: Any, server: Any) -> None:
        super().__init__(handler, server)
        # engine.io itself looks at the size of a message when it has all of it.
        self.server_args["max_message_size"] = server.max_http_buffer_size

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Serve one connection; simple-websocket finds our socket where it looks for that of eventlet's server."""
        environ["eventlet.input"] = WholeSends(environ["wsgi.input"].raw._sock)  # noqa: SLF001 - as it does
        # Compression is by connection: one delta would be deflated for each browser, each with a window in memory.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return super().__call__(environ, start_response)


def make_socketio(app: Flask, origins: list[str]) -> SocketIO:
    """Return the Socket.IO server of an app; `origins` may connect beside the app's own."""
    socketio = SocketIO(
        app,
        async_mode="gevent",
        cors_allowed_origins=origins or None,
        ping_interval=PING_S,
        ping_timeout=PONG_S,
        max_http_buffer_size=MOST_RECEIVED_BYTES,
        manage_session=False,
        logger=False,
        engineio_logger=False,
    )
    engine = socketio.server.eio
    engine._async = engine._async | {"websocket": BoundedWebSocket}  # noqa: SLF001 - it has no setting for this
    return socketio


@dataclass(slots=True)
class _Browser:
    """A browser that was let in."""

    viewer: Viewer
    followed: set[str] = field(default_factory=set)
    """Ids of requests."""
    snapshot_at: float = -math.inf


class Sockets:
    """All connected browsers."""

    def __init__(self, socketio: SocketIO, relay: Relay, access: Access) -> None:
        self._socketio = socketio
        self._relay = relay
        self._access = access
        self._browsers: dict[str, _Browser] = {}
        self._strangers: dict[str, float] = {}
        """Connections of engine.io that are not let in, oldest first -> monotonic seconds since when."""
        self.stalled = 0
        for name in ("connect", "disconnect", "watch", "follow", "unfollow"):
            socketio.on_event(name, getattr(self, f"_{name}"))

    def push(self, update: Update) -> None:
        """Send news of a request to its followers; that of a request without any costs nothing."""
        rooms = rooms_of(update.id, update.owner)
        if not self._socketio.server.manager.rooms.get(NAMESPACE, {}).keys().isdisjoint(rooms):
            self._socketio.emit("progress", update.state, to=rooms)

    def push_overview(self, delta: dict[str, Any]) -> None:
        """Send a delta to all dashboards."""
        self._socketio.emit("delta", delta, to=OVERVIEW)

    def disconnect_stalled(self) -> None:
        """Disconnect browsers that don't read."""
        for connection in list(self._socketio.server.eio.sockets.values()):
            if connection.queue.qsize() > MOST_QUEUED and not connection.closed:
                self.stalled += 1
                log.info("a browser does not read; disconnected it")
                _close(connection, "stalled")

    def disconnect_strangers(self, now: float) -> None:
        """Disconnect connections that were not let in; engine.io itself would keep them for ever."""
        server = self._socketio.server
        strangers = {
            sid: connection
            for sid, connection in server.eio.sockets.items()
            if not connection.closed and server.manager.sid_from_eio_sid(sid, NAMESPACE) is None
        }
        self._strangers = {sid: self._strangers.get(sid, now) for sid in strangers}
        for place, (sid, since) in enumerate(self._strangers.items(), start=1):
            if now - since >= JOIN_S or len(strangers) - place >= MOST_STRANGERS:
                _close(strangers[sid], "not let in")

    def disconnect_all(self) -> None:
        """Disconnect all browsers, as keys have changed; they connect again, and are let in or not."""
        for connection in list(self._socketio.server.eio.sockets.values()):
            _close(connection, "keys")

    def counts(self) -> dict[str, int]:
        """Return connected browsers, and those that were disconnected because they did not read."""
        return {"sockets": len(self._browsers), "stalled": self.stalled}

    def _connect(self, auth: Any = None) -> None:
        key = auth.get("key") if isinstance(auth, dict) else None
        viewer = self._access.viewer([key] if key and isinstance(key, str) else [])
        if viewer is None:
            raise RefuseConnection("unauthorized")
        self._browsers[_sid()] = _Browser(viewer)

    def _disconnect(self, *_reason: Any) -> None:
        self._browsers.pop(_sid(), None)

    def _watch(self, *_arguments: Any) -> dict[str, Any]:
        """Join the overview, and get a snapshot; a browser that missed a delta asks again."""
        sid, now = _sid(), time.monotonic()
        browser = self._browsers.get(sid)
        if browser is None or not browser.viewer.operator:
            return {"ok": False, "error": "forbidden"}
        if now - browser.snapshot_at >= SNAPSHOT_EVERY_S:
            browser.snapshot_at = now
            join_room(OVERVIEW)
            self._socketio.emit("snapshot", self._relay.snapshot(), to=sid)
        return {"ok": True}

    def _follow(self, request_id: Any = None, *_arguments: Any) -> dict[str, Any]:
        """Follow one request; return its state, if it is known."""
        browser = self._browsers.get(_sid())
        if browser is None or not isinstance(request_id, str) or not USABLE_ID.fullmatch(request_id):
            return {"ok": False, "error": "invalid_request"}
        if request_id not in browser.followed:
            if len(browser.followed) >= MOST_FOLLOWED:
                return {"ok": False, "error": "too_many"}
            browser.followed.add(request_id)
            join_room(room_for(request_id, browser.viewer))
            log.info("followed", extra={"request_id": request_id})
        states = self._relay.runs.find(request_id, browser.viewer.may_see)
        return {"ok": True, "state": states[-1] if states else None}

    def _unfollow(self, request_id: Any = None, *_arguments: Any) -> dict[str, Any]:
        browser = self._browsers.get(_sid())
        if browser is not None and isinstance(request_id, str) and request_id in browser.followed:
            browser.followed.discard(request_id)
            leave_room(room_for(request_id, browser.viewer))
        return {"ok": True}


def _close(connection: Any, reason: str) -> None:
    """Close at once, without a last packet: it would wait behind all the others."""
    connection.close(wait=False, abort=True, reason=reason)


def _sid() -> str:
    sid: str = request.sid  # type: ignore[attr-defined] # Flask-SocketIO puts it there
    return sid
