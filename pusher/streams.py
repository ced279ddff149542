"""Followers by server-sent events.

Each has a slot for the newest state of each request with its id: a slow follower costs nothing, and misses only states
that newer ones replace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from gevent.event import Event

from pusher.access import Viewer
from pusher.history import State
from pusher.relay import Update

RUNNING = "running"

WAIT_S = 60.0
"""How long a stream waits for a request that is not known."""

KEEP_ALIVE_S = 5.0
"""Proxies and clients take a longer silence for a dead connection; nginx takes twice as long (nginx.conf.j2)."""

MOST_STREAMS = 2000


class TooManyStreamsError(Exception):
    """There is no room for another follower."""


@dataclass(slots=True, eq=False)
class _Slot:
    viewer: Viewer
    news: dict[str, State] = field(default_factory=dict)
    """Key of a request -> its state. Operators follow the requests of all owners that chose one id."""
    closed: bool = False
    event: Event = field(default_factory=Event)

    def put(self, state: State) -> None:
        self.news[state["key"]] = state
        self.event.set()

    def take(self) -> list[State]:
        self.event.clear()
        news, self.news = self.news, {}
        return list(news.values())


class Streams:
    """All followers, by request id."""

    def __init__(self) -> None:
        self._slots: dict[str, list[_Slot]] = {}
        self.count = 0

    def push(self, update: Update) -> None:
        """Hand news of a request to its followers."""
        for slot in self._slots.get(update.id, ()):
            if slot.viewer.may_see(update.owner):
                slot.put(update.state)

    def close_all(self) -> None:
        """End every stream, as keys have changed; followers with a valid key come back."""
        for slots in self._slots.values():
            for slot in slots:
                slot.closed = True
                slot.event.set()

    def follow(self, request_id: str, viewer: Viewer, known: list[State]) -> Iterator[str]:
        """Return the events of a stream, as text; it ends when no request with this id runs that the viewer may see.

        Args:
            request_id: of the request.
            viewer: sees no other requests than it may.
            known: their states by now.

        Raises:
            TooManyStreamsError: at once, before the first event.
        """
        if self.count >= MOST_STREAMS:
            raise TooManyStreamsError
        slot = _Slot(viewer)
        for state in known:
            slot.put(state)
        return self._events(request_id, slot)

    def _events(self, request_id: str, slot: _Slot) -> Iterator[str]:
        self._slots.setdefault(request_id, []).append(slot)
        self.count += 1
        began = time.monotonic()
        heard, running = False, set[str]()
        try:
            yield "retry: 1000\n\n"
            while True:
                if not slot.event.wait(KEEP_ALIVE_S):
                    if not heard and time.monotonic() - began >= WAIT_S:
                        yield _event("unknown", {"id": request_id, "status": "unknown"})
                        return
                    yield ": still here\n\n"
                    continue
                if slot.closed:
                    return
                for state in slot.take():
                    heard = True
                    runs = state["status"] == RUNNING
                    (running.add if runs else running.discard)(state["key"])
                    yield _event("progress" if runs else "finished", state)
                if not running:
                    return
        finally:
            self.count -= 1
            slots = self._slots[request_id]
            slots.remove(slot)
            if not slots:
                del self._slots[request_id]


def _event(name: str, state: State) -> str:
    return f"event: {name}\ndata: {json.dumps(state, separators=(',', ':'))}\n\n"
