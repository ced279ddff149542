"""ZeroMQ frames -> relay. One greenlet receives, and lets the others run however many frames come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import zmq.green as zmq

from contracts.events import Frame, MalformedFrameError, NewerFrameError, decode
from pusher import clock

log = logging.getLogger(__name__)

HIGH_WATER_FRAMES = 256
"""Frames that ZeroMQ keeps for us; when that is full, workers see it and count what they drop."""

MOST_FRAME_BYTES = 1024 * 1024
"""ZeroMQ disconnects a sender of a larger frame."""

FRAMES_AT_ONCE = 32
"""Then the other greenlets have a turn."""

WARN_EVERY_S = 60.0


class Intake:
    """Receives frames from workers."""

    def __init__(self, address: str, *, take: Callable[[Frame, float], None], count: Callable[[str], None]) -> None:
        self._address = address
        self._take = take
        self._count = count
        self._warned = 0.0

    def run(self) -> None:
        """Receive for ever; raises where the address can't be bound."""
        bound = False
        context = zmq.Context()
        socket = None
        try:  # this is tried again and again where the socket can't be opened or bound
            socket = context.socket(zmq.PULL)
            socket.set(zmq.RCVHWM, HIGH_WATER_FRAMES)
            socket.set(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
            socket.set(zmq.LINGER, 0)
            socket.bind(self._address)
            bound = True
            self._receive(socket)
        finally:
            if socket is not None:
                socket.close()
            context.term()
            if bound and self._address.startswith("ipc://"):  # ZeroMQ leaves the file
                Path(self._address.removeprefix("ipc://")).unlink(missing_ok=True)

    def _receive(self, socket: Any) -> None:
        received = 0
        while True:
            self.take(socket.recv())
            received += 1
            if received % FRAMES_AT_ONCE == 0:
                gevent.sleep(0)

    def take(self, message: bytes) -> None:
        """Hand on the frame in a message, or count why it is skipped."""
        try:
            frame = decode(message)
        except NewerFrameError as error:
            self._skip("newer", error)
        except MalformedFrameError as error:
            self._skip("malformed", error)
        else:
            self._take(frame, clock.now())

    def _skip(self, why: str, error: Exception) -> None:
        self._count(why)
        now = time.monotonic()
        if now - self._warned >= WARN_EVERY_S or not self._warned:
            self._warned = now
            log.warning("skipped a frame", extra={"why": why, "error": type(error).__name__})
