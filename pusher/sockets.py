"""Browsers by Socket.IO: which may connect, which rooms they join, and what is sent to them.

A slow browser holds up no other: packets wait for each by itself, and `disconnect_stalled` ends one that is too far
behind. `websocket` bounds a single send.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import request
from flask_socketio import ConnectionRefusedError as RefuseConnection
from flask_socketio import SocketIO, join_room, leave_room

from pusher.access import OVERVIEW, USABLE_ID, Access, Viewer, room_for, rooms_of
from pusher.relay import Relay, Update

log = logging.getLogger(__name__)

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


class Sockets:
    """All connected browsers."""

    def __init__(self, socketio: SocketIO, relay: Relay, access: Access) -> None:
        self._socketio = socketio
        self._relay = relay
        self._access = access
        self._viewers: dict[str, Viewer] = {}
        self._followed: dict[str, set[str]] = {}
        self._snapshot_at: dict[str, float] = {}
        self._strangers: dict[str, float] = {}
        """Connections of engine.io that are not let in, oldest first -> monotonic seconds since when."""
        self._rooms: dict[str, int] = {}
        """Request id -> number of followers, so that news of other requests costs nothing."""
        self.stalled = 0
        for name in ("connect", "disconnect", "watch", "follow", "unfollow"):
            socketio.on_event(name, getattr(self, f"_{name}"))

    def push(self, update: Update) -> None:
        """Send news of a request to its followers."""
        if update.id in self._rooms:
            self._socketio.emit("progress", update.state, to=rooms_of(update.id, update.owner))

    def push_overview(self, delta: dict[str, Any]) -> None:
        """Send a delta to all dashboards."""
        self._socketio.emit("delta", delta, to=OVERVIEW)

    def disconnect_stalled(self) -> None:
        """Disconnect browsers that don't read."""
        for connection in list(self._socketio.server.eio.sockets.values()):
            if connection.queue.qsize() > MOST_QUEUED and not connection.closed:
                self.stalled += 1
                log.info("a browser does not read; disconnected it")
                # Without waiting, and without a last packet: it would wait behind all the others.
                connection.close(wait=False, abort=True, reason="stalled")

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
                strangers[sid].close(wait=False, abort=True, reason="not let in")

    def disconnect_all(self) -> None:
        """Disconnect all browsers, as keys have changed; they connect again, and are let in or not."""
        for connection in list(self._socketio.server.eio.sockets.values()):
            connection.close(wait=False, abort=True, reason="keys")

    def counts(self) -> dict[str, int]:
        """Return connected browsers, and those that were disconnected because they did not read."""
        return {"sockets": len(self._viewers), "stalled": self.stalled}

    def _connect(self, auth: Any = None) -> None:
        key = auth.get("key") if isinstance(auth, dict) else None
        viewer = self._access.viewer([key] if key and isinstance(key, str) else [])
        if viewer is None:
            raise RefuseConnection("unauthorized")
        self._viewers[_sid()] = viewer

    def _disconnect(self, *_reason: Any) -> None:
        for request_id in self._followed.pop(_sid(), ()):
            self._uncount(request_id)
        self._viewers.pop(_sid(), None)
        self._snapshot_at.pop(_sid(), None)

    def _watch(self, *_arguments: Any) -> dict[str, Any]:
        """Join the overview, and get a snapshot; a browser that missed a delta asks again."""
        sid, now = _sid(), time.monotonic()
        viewer = self._viewers.get(sid)
        if viewer is None or not viewer.operator:
            return {"ok": False, "error": "forbidden"}
        if now - self._snapshot_at.get(sid, -SNAPSHOT_EVERY_S) >= SNAPSHOT_EVERY_S:
            self._snapshot_at[sid] = now
            join_room(OVERVIEW)
            self._socketio.emit("snapshot", self._relay.snapshot(), to=sid)
        return {"ok": True}

    def _follow(self, request_id: Any = None, *_arguments: Any) -> dict[str, Any]:
        """Follow one request; return its state, if it is known."""
        viewer = self._viewers.get(_sid())
        if viewer is None or not isinstance(request_id, str) or not USABLE_ID.fullmatch(request_id):
            return {"ok": False, "error": "invalid_request"}
        followed = self._followed.setdefault(_sid(), set())
        if request_id not in followed:
            if len(followed) >= MOST_FOLLOWED:
                return {"ok": False, "error": "too_many"}
            followed.add(request_id)
            self._rooms[request_id] = self._rooms.get(request_id, 0) + 1
            join_room(room_for(request_id, viewer))
            log.info("followed", extra={"request_id": request_id})
        states = self._relay.runs.find(request_id, viewer.may_see)
        return {"ok": True, "state": states[-1] if states else None}

    def _unfollow(self, request_id: Any = None, *_arguments: Any) -> dict[str, Any]:
        viewer = self._viewers.get(_sid())
        followed = self._followed.get(_sid(), set())
        if viewer is not None and request_id in followed:
            followed.discard(request_id)
            self._uncount(request_id)
            leave_room(room_for(request_id, viewer))
        return {"ok": True}

    def _uncount(self, request_id: str) -> None:
        self._rooms[request_id] -= 1
        if not self._rooms[request_id]:
            del self._rooms[request_id]


def _sid() -> str:
    sid: str = request.sid  # type: ignore[attr-defined] # Flask-SocketIO puts it there
    return sid
