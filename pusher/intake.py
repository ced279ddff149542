"""ZeroMQ frames -> relay. One greenlet receives, and lets the others run however many frames come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import zmq.green as zmq

from contracts.events import Frame, FrameError, decode

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

    def __init__(self, address: str, *, take: Callable[[Frame], None], count: Callable[[str], None]) -> None:
        self._address = address
        self._take = take
        self._count = count
        self._next_warning = 0.0

    def run(self) -> None:
        """Receive for ever; raises where the address can't be bound, and may be called again."""
        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.set(zmq.RCVHWM, HIGH_WATER_FRAMES)
            socket.set(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
            socket.set(zmq.LINGER, 0)
            socket.bind(self._address)
            try:
                while True:
                    for _ in range(FRAMES_AT_ONCE):
                        self.take(socket.recv())
                    gevent.sleep(0)
            finally:
                if self._address.startswith("ipc://"):  # ZeroMQ leaves the file
                    Path(self._address.removeprefix("ipc://")).unlink(missing_ok=True)

    def take(self, message: bytes) -> None:
        """Hand on the frame in a message, or count why it is skipped."""
        try:
            frame = decode(message)
        except FrameError as error:
            self._count(error.why)
            if time.monotonic() >= self._next_warning:
                self._next_warning = time.monotonic() + WARN_EVERY_S
                log.warning("skipped a frame", extra={"why": error.why, "error": type(error).__name__})
        else:
            self._take(frame)
