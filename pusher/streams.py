"""Followers by server-sent events.

Each has a slot for the newest state: a slow one costs nothing, and misses only what is overtaken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from gevent.event import Event

from pusher.access import Viewer
from pusher.relay import Update

RUNNING = "running"

WAIT_S = 60.0
"""How long a stream waits for a request that nobody has heard of."""

KEEP_ALIVE_S = 10.0
"""Proxies and clients take a longer silence for a dead connection."""

MOST_STREAMS = 2000


class TooManyStreamsError(Exception):
    """There is no room for another follower."""


class _Slot:
    __slots__ = ("event", "state", "viewer")

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.state: dict[str, Any] | None = None
        self.event = Event()

    def put(self, state: dict[str, Any]) -> None:
        self.state = state
        self.event.set()


class Streams:
    """All of them, by request id."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots: dict[str, list[_Slot]] = {}
        self._clock = clock
        self.count = 0

    def push(self, update: Update) -> None:
        """News of a request."""
        for slot in self._slots.get(update.id, ()):
            if slot.viewer.may_see(update.owner):
                slot.put(update.state)

    def follow(self, request_id: str, viewer: Viewer, known: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
        """The events of a stream, as text; ends with the request.

        Raises:
            TooManyStreamsError: at once, before the first event.
        """
        if self.count >= MOST_STREAMS:
            raise TooManyStreamsError
        slot = _Slot(viewer)
        for owner, state in known:
            if viewer.may_see(owner):
                slot.put(state)
        return self._events(request_id, slot)

    def _events(self, request_id: str, slot: _Slot) -> Iterator[str]:
        self._slots.setdefault(request_id, []).append(slot)
        self.count += 1
        began = self._clock()
        heard = False
        try:
            yield "retry: 1000\n\n"
            while True:
                if not slot.event.wait(KEEP_ALIVE_S):
                    if not heard and self._clock() - began >= WAIT_S:
                        yield _event("unknown", {"id": request_id, "status": "unknown"})
                        return
                    yield ": still here\n\n"
                    continue
                slot.event.clear()
                state, heard = slot.state or {}, True
                running = state.get("status") == RUNNING
                yield _event("progress" if running else "finished", state)
                if not running:
                    return
        finally:
            self.count -= 1
            slots = self._slots[request_id]
            slots.remove(slot)
            if not slots:
                del self._slots[request_id]


def _event(name: str, state: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(state, separators=(',', ':'))}\n\n"
