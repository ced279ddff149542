"""ZeroMQ frames -> relay. One greenlet receives, and lets the others run however many frames come.

Over TCP with a key, ZeroMQ refuses senders without it before a frame is read (`contracts/secure_events.py`).
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import zmq.green as zmq
from zmq.constants import Event

from contracts.events import Frame, FrameError, decode
from contracts.secure_events import secure_receiver

log = logging.getLogger(__name__)

HIGH_WATER_FRAMES = 256
"""Frames that ZeroMQ keeps for us; when that is full, workers see it and count what they drop."""

MOST_FRAME_BYTES = 1024 * 1024
"""ZeroMQ disconnects a sender of a larger frame."""

FRAMES_AT_ONCE = 32
"""Then the other greenlets have a turn."""

WARN_EVERY_S = 60.0

REFUSED = Event.HANDSHAKE_FAILED_PROTOCOL | Event.HANDSHAKE_FAILED_AUTH
"""Events of ZeroMQ: a sender has no key, or another one. A port scan, which sends nothing, is neither."""

ZAP = "inproc://zeromq.zap.01"
"""Where ZeroMQ asks whether a sender with this public key is let in."""


class Intake:
    """Receives frames from workers.

    Args:
        address: ZeroMQ address to listen at.
        key: RERANK_EVENTS_KEY, for an address that is tcp://; empty: whatever reaches it may send.
        take: gets each frame.
        count: gets a word for each frame that is skipped, and "refused" for each sender that is.
    """

    def __init__(
        self, address: str, *, key: str = "", take: Callable[[Frame], None], count: Callable[[str], None]
    ) -> None:
        self._address = address
        self._key = key
        self._take = take
        self._count = count
        self._next_warning: dict[str, float] = {}

    def run(self) -> None:
        """Receive for ever; raises where the address can't be bound, and may be called again."""
        with zmq.Context() as context, context.socket(zmq.PULL) as socket, ExitStack() as guard:
            socket.set(zmq.RCVHWM, HIGH_WATER_FRAMES)
            socket.set(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
            socket.set(zmq.LINGER, 0)
            senders = secure_receiver(socket, self._address, self._key)
            if senders:
                self._guard(guard, context, socket, senders)
            try:
                socket.bind(self._address)
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
            self._warn("skipped a frame", why=error.why, error=type(error).__name__)
        else:
            self._take(frame)

    def _guard(self, guard: ExitStack, context: Any, socket: Any, senders: bytes) -> None:
        """Start what lets senders with this public key in, and what counts those that are refused."""
        guard.callback(socket.disable_monitor)
        asked = guard.enter_context(context.socket(zmq.REP))
        asked.bind(ZAP)  # before the first sender comes
        refusals = guard.enter_context(socket.get_monitor_socket(int(REFUSED)))
        guard.callback(gevent.killall, [gevent.spawn(_let_in, asked, senders), gevent.spawn(self._hear, refusals)])

    def _hear(self, refusals: Any) -> None:
        while True:
            refusals.recv_multipart()
            self._count("refused")
            self._warn("refused a sender of events: it has no RERANK_EVENTS_KEY, or another one than this pusher")

    def _warn(self, message: str, **more: str) -> None:
        if time.monotonic() >= self._next_warning.get(message, 0.0):
            self._next_warning[message] = time.monotonic() + WARN_EVERY_S
            log.warning(message, extra=more)


def _let_in(asked: Any, senders: bytes) -> None:
    """Answer ZeroMQ's questions, one for each sender: 200 to one with this public key, 400 to others."""
    while True:
        version, request, _domain, _address, _identity, mechanism, *credentials = asked.recv_multipart()
        known = mechanism == b"CURVE" and len(credentials) == 1 and hmac.compare_digest(credentials[0], senders)
        asked.send_multipart([version, request, b"200" if known else b"400", b"", b"", b""])
