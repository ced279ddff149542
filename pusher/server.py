"""The pusher, wired up: greenlets that receive, tick and remember, and a web server for browsers.

Stop order is the reverse of start: no new connections, browsers are told, the memory is written, the socket goes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import gevent
from flask import Flask
from flask_socketio import SocketIO
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from contracts.api_keys import KeyRing
from contracts.events import Expired, Finished, Frame, Shed
from pusher import access_lines, clock, following, memory, scraping
from pusher.access import Access
from pusher.intake import Intake
from pusher.relay import TICK_S
from pusher.settings import Settings, listed
from pusher.sockets import Sockets
from pusher.streams import Streams
from pusher.websocket import WebSocketPatches

log = logging.getLogger(__name__)

PING_S = 5
"""Interval of pings. nginx hangs up on a pusher that says nothing for twice as long (nginx.conf.j2)."""

PONG_S = 10
"""How long an answer to a ping may take."""

BACKLOG = 1024

STOP_S = 2.0


class Pusher:
    """One process's worth."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked_to_stop = Event()
        self._forgetful = False
        """The memory could not be written the last time."""
        self.relay = memory.recall(settings.memory, clock.now())
        self._keys = KeyRing(settings.api_keys, settings.api_keys_file, settings.own_key)
        self._tell_problems()
        access = Access(self._keys, KeyRing(settings.operator_keys))
        self.streams = Streams()
        app = Flask("pusher", static_folder=None)
        access_lines.install(app)
        app.register_blueprint(following.blueprint(self.relay, access, self.streams))
        socketio = SocketIO(
            app,
            async_mode="gevent",
            cors_allowed_origins=listed(settings.dashboard_origins) or None,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
            max_http_buffer_size=16 * 1024,  # browsers send ids, not documents
            manage_session=False,
            logger=False,
            engineio_logger=False,
        )
        self.sockets = Sockets(socketio, self.relay, access)
        app.register_blueprint(
            scraping.blueprint(
                self.relay,
                sockets=lambda: self.sockets.count,
                streams=lambda: self.streams.count,
                stalled=lambda: self.sockets.stalled,
            )
        )
        self._app = WebSocketPatches(app)
        self._intake = Intake(
            settings.intake_address,
            take=self._take,
            count=lambda why: self.relay.seen.update([why]),
        )

    def run(self) -> None:
        """Serve until `stop`."""
        listener = _listen(self._settings.socket)
        # Its own words would quote what it was sent.
        server = WSGIServer(listener, self._app, log=None, error_log=None)
        server.start()
        loops = [
            gevent.spawn(self._for_ever, self._intake.run, 1.0),
            gevent.spawn(self._for_ever, self._tick, TICK_S),
            gevent.spawn(self._for_ever, self._remember, memory.SAVE_S),
        ]
        log.info("the pusher listens for workers on %s", self._settings.intake_address)
        self._asked_to_stop.wait()
        server.stop_accepting()
        listener.close()  # before its name is gone: `serve` gives a socket that listens its name back
        with contextlib.suppress(FileNotFoundError):  # at once: later it might be our successor's
            self._settings.socket.unlink()
        gevent.killall(loops, timeout=STOP_S)
        self._remember()

    def stop(self) -> None:
        """Ask `run` to end; a signal handler may call it."""
        self._asked_to_stop.set()

    def _take(self, frame: Frame, now: float) -> None:
        self.relay.take(frame, now)
        if log.isEnabledFor(logging.DEBUG):
            for event in frame.events:
                if isinstance(event, (Finished, Expired, Shed)):
                    log.debug("heard", extra={"request_id": event.id, "event_type": type(event).__name__.lower()})

    def reload_keys(self) -> None:
        """Read the key file again; a signal handler may call it."""
        self._keys.reload()
        self._tell_problems()
        self.sockets.disconnect_all()
        self.streams.close_all()

    def _tell_problems(self) -> None:
        for problem in self._keys.problems:
            log.error("a key is left out: %s", problem)

    def _tick(self) -> None:
        updates, delta = self.relay.tick(clock.now())
        for update in updates:
            self.sockets.push(update)
            self.streams.push(update)
        if delta is not None:
            self.sockets.push_overview(delta)
        self.sockets.disconnect_stalled()
        self.sockets.disconnect_strangers(time.monotonic())

    def _remember(self) -> None:
        try:
            memory.save(self.relay, self._settings.memory)
        except OSError as error:
            if not self._forgetful:  # told once, not every second
                log.warning("what happened can't be kept: %s; it is forgotten at a restart", error)
            self._forgetful = True
        else:
            self._forgetful = False

    def _for_ever(self, step: Callable[[], None], interval_s: float) -> None:
        """One bad step must not end the loop: it is logged, and the next one comes."""
        while True:
            try:
                step()
            except Exception:
                log.exception("a step of the pusher failed")
            gevent.sleep(interval_s)


def _listen(path: Path) -> socket.socket:
    """A unix socket for this user alone; one that a killed predecessor left is taken over."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
