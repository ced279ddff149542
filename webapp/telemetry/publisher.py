"""Events -> the pusher, over ZeroMQ. Publishing appends to a bounded buffer; a greenlet sends it, never blocking.

PUSH, not PUB: PUSH says when it is full or has no peer, so lost events are counted (docs/adr/0009-progress-channel.md).
"""

from __future__ import annotations

import os
import uuid
from collections import deque

import zmq

from contracts.events import Event, Source, encode

BUFFER_EVENTS = 4096
"""At most this many wait for the next flush, 20 a second; more are dropped."""

FRAME_EVENTS = 256
"""Events in one frame: about 50 kB."""

HIGH_WATER_FRAMES = 64
"""Frames ZeroMQ may hold for a pusher that is slow."""


class Publisher:
    """The connection of one worker to the pusher. Call `publish` from any thread, the rest from one greenlet.

    Without an endpoint, events are off: none is kept, sent or counted.
    """

    def __init__(self, endpoint: str, *, color: str = "") -> None:
        self._endpoint = endpoint
        self._color = color
        self._buffer: deque[Event] = deque()
        self._socket: zmq.Socket[bytes] | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._source = Source(id="", pid=0)
        self._seq = 0
        self.published = 0
        self.dropped = 0

    def start(self) -> None:
        """Connect. After the fork: a context does not survive it. The pusher need not be there."""
        if not self._endpoint:
            return
        self._source = Source(id=uuid.uuid4().hex[:12], pid=os.getpid(), color=self._color)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        # Options take effect for later connects only, so they come first.
        self._socket.set(zmq.SNDHWM, HIGH_WATER_FRAMES)
        self._socket.set(zmq.LINGER, 0)  # the default waits for ever at the end
        self._socket.set(zmq.IMMEDIATE, 1)  # nothing is kept for a pusher that is not there
        self._socket.set(zmq.RECONNECT_IVL, 50)  # ms; a pusher that was restarted is found at once
        self._socket.set(zmq.RECONNECT_IVL_MAX, 200)  # ms
        self._socket.connect(self._endpoint)

    def publish(self, event: Event) -> None:
        """Keep an event for the next flush."""
        if not self._endpoint:
            return
        if len(self._buffer) < BUFFER_EVENTS:
            self._buffer.append(event)
        else:
            self.dropped += 1

    def flush(self) -> None:
        """Send what waits; drop and count what can't be sent now."""
        while self._buffer:
            events = [self._buffer.popleft() for _ in range(min(FRAME_EVENTS, len(self._buffer)))]
            try:
                if self._socket is None:
                    raise zmq.Again
                self._socket.send(encode(self._source, self._seq, events), zmq.NOBLOCK)
                self._seq += 1
                self.published += len(events)
            except zmq.ZMQError:  # full, or no pusher
                self.dropped += len(events)

    def close(self) -> None:
        """Send what waits, if there is a pusher, and disconnect."""
        self.flush()
        if self._socket is not None and self._context is not None:
            # The I/O thread needs a moment to hand the last frame over; without a pusher it is not asked to.
            self._socket.close(linger=200)
            self._context.term()
            self._socket = None
