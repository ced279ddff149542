"""Events -> the pusher, over ZeroMQ. Publishing appends to a bounded buffer; a greenlet sends it, never blocking.

PUSH, not PUB: PUSH says when it is full or has no peer, so lost events are counted (docs/adr/0009-progress-channel.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable

import zmq

from contracts.events import Event, Source, encode
from contracts.secure_events import secure_sender
from webapp.domain.concurrency import allocate_lock, start_native_thread

log = logging.getLogger(__name__)

BUFFER_EVENTS = 4096
"""At most this many wait for the next flush, 20 a second; more are dropped."""

FRAME_EVENTS = 256
"""Events in one frame: about 50 kB."""

HIGH_WATER_FRAMES = 64
"""Frames ZeroMQ may hold for a pusher that is slow."""

CONNECT_AGAIN_S = 5.0
"""When so long nothing could be sent over TCP, connect anew: ZeroMQ itself gives up after some refusals."""

WARN_S = 60.0
"""When so long nothing could be sent over TCP, say so once: a restart of the pusher is no news."""

LINGER_MS = 200
"""Time for the I/O thread to hand the last frame over; without a pusher it is not asked to."""

CLOSE_S = 0.5
"""Longest wait for the end of the I/O thread, which may be waiting for DNS."""


class Publisher:
    """The connection of one worker to the pusher. Call `publish` from any thread, the rest from one greenlet.

    Without an endpoint, events are off: none is kept, sent or counted.

    Args:
        endpoint: ZeroMQ address of the pusher.
        color: of the release that sends.
        key: RERANK_EVENTS_KEY, for an endpoint that is tcp://.
        clock: monotonic seconds.
    """

    def __init__(
        self, endpoint: str, *, color: str = "", key: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._endpoint = endpoint
        self._color = color
        self._key = key
        self._clock = clock
        self._sent_at = self._connected_at = 0.0
        self._warned = False
        """Whether it is said that nothing can be sent."""
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
        self._source = Source(id=uuid.uuid4().hex[:12], pid=os.getpid(), color=self._color, host=socket.gethostname())
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        # Options take effect for later connects only, so they come first.
        self._socket.set(zmq.SNDHWM, HIGH_WATER_FRAMES)
        self._socket.set(zmq.LINGER, 0)  # the default waits for ever at the end
        self._socket.set(zmq.IMMEDIATE, 1)  # nothing is kept for a pusher that is not there
        self._socket.set(zmq.RECONNECT_IVL, 50)  # ms; a pusher that was restarted is found at once
        self._socket.set(zmq.RECONNECT_IVL_MAX, 200)  # ms
        secure_sender(self._socket, self._endpoint, self._key)
        self._socket.connect(self._endpoint)
        self._sent_at = self._connected_at = self._clock()

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
                self._sent_at, self._warned = self._clock(), False
            except zmq.ZMQError:  # full, or no pusher
                self.dropped += len(events)
                self._despair()

    def _despair(self) -> None:
        """Connect anew when nothing could be sent over TCP for a while, and log it once."""
        now = self._clock()
        if self._socket is None or not self._endpoint.startswith("tcp://"):
            return
        if now - max(self._sent_at, self._connected_at) >= CONNECT_AGAIN_S:
            self._connected_at = now
            with contextlib.suppress(zmq.ZMQError):  # it gave this address up
                self._socket.disconnect(self._endpoint)
            self._socket.connect(self._endpoint)
        if now - self._sent_at >= WARN_S and not self._warned:
            self._warned = True
            log.warning(
                "no pusher takes events at %s: it is away, or its RERANK_EVENTS_KEY is not ours; they are dropped, and"
                " reranks go on",
                self._endpoint,
            )

    def close(self) -> None:
        """Send what waits, if there is a pusher, and disconnect."""
        self.flush()
        if self._socket is not None and self._context is not None:
            self._socket.close(LINGER_MS)
            self._socket = None
            ended, term = allocate_lock(), self._context.term

            def end() -> None:
                term()
                ended.release()

            ended.acquire()
            start_native_thread(end, ())
            ended.acquire(timeout=CLOSE_S)
