"""The pusher, wired up: greenlets that receive, tick and save, and a web server for browsers.

Stop order is the reverse of start: no new connections, the socket goes, greenlets end, the state file is written.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import gevent
from flask import Flask
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from contracts.api_keys import KeyRing
from contracts.events import Expired, Finished, Frame, Shed
from pusher import routes, state_file
from pusher.access import Access
from pusher.intake import Intake
from pusher.relay import TICK_S
from pusher.settings import Settings, listed
from pusher.sockets import Sockets, make_socketio
from pusher.streams import Streams

log = logging.getLogger(__name__)

BACKLOG = 1024

MOST_CONNECTIONS = 7000
"""Connections of all stacks' nginx together; the next ones wait. It has 8,192 descriptors."""

_BEGAN_AT = time.time() - time.monotonic()

STOP_S = 2.0


def now() -> float:
    """Return unix seconds that never jump: the system's clock as it was at the start, and what has passed since.

    If the system's clock is set back an hour, plots would else have no points for an hour; if it is set forward, every
    worker would look lost.
    """
    return _BEGAN_AT + time.monotonic()


class Pusher:
    """The parts of one pusher process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked_to_stop = Event()
        self._save_failed = False
        """Whether the state file could not be written the last time."""
        self.relay = state_file.recall(settings.state_file, now())
        self._keys = KeyRing(settings.api_keys, settings.api_keys_file, settings.own_key)
        access = Access(self._keys, KeyRing(settings.operator_keys))
        self.streams = Streams()
        app = Flask("pusher", static_folder=None)
        socketio = make_socketio(app, listed(settings.dashboard_origins))
        self.sockets = Sockets(socketio, self.relay, access)
        routes.install(app, self.relay, access, self.streams, None if settings.listen else self.sockets.counts)
        self._app = app
        count = self.relay.seen.update
        self._intake = Intake(
            settings.intake_address, key=settings.events_key, take=self._take, count=lambda why: count([why])
        )

    def run(self) -> None:
        """Serve until `stop`."""
        listener = _listen(self._settings.listen or self._settings.socket)
        # Its own log would quote requests.
        server = WSGIServer(listener, self._app, log=None, error_log=None, spawn=Pool(MOST_CONNECTIONS))
        server.start()
        steps = ((self._intake.run, 1.0), (self._tick, TICK_S), (self._save, state_file.SAVE_S))
        loops = [gevent.spawn(self._for_ever, step, interval_s) for step, interval_s in steps]
        log.info("the pusher listens for workers on %s", self._settings.intake_address)
        self._asked_to_stop.wait()
        server.stop_accepting()
        listener.close()  # before its name goes: `serve` gives a listening socket its name back
        if not self._settings.listen:
            self._settings.socket.unlink(missing_ok=True)  # at once: later it might be our successor's
        gevent.killall(loops, timeout=STOP_S)
        self._save()

    def stop(self) -> None:
        """Ask `run` to end; a signal handler may call it."""
        self._asked_to_stop.set()

    def _take(self, frame: Frame) -> None:
        self.relay.take(frame, now())
        if log.isEnabledFor(logging.DEBUG):
            for event in frame.events:
                if isinstance(event, (Finished, Expired, Shed)):
                    log.debug("heard", extra={"request_id": event.id, "event_type": type(event).__name__.lower()})

    def reload_keys(self) -> None:
        """Read the key file again; a signal handler may call it."""
        self._keys.reload()
        for problem in self._keys.problems:
            log.error("a key is left out: %s", problem)
        self.sockets.disconnect_all()
        self.streams.close_all()

    def _tick(self) -> None:
        updates, delta = self.relay.tick(now())
        for update in updates:
            self.sockets.push(update)
            self.streams.push(update)
        if delta is not None:
            self.sockets.push_overview(delta)
        self.sockets.disconnect_stalled()
        self.sockets.disconnect_strangers(time.monotonic())

    def _save(self) -> None:
        try:
            state_file.save(self.relay, self._settings.state_file, now())
        except OSError as error:
            if not self._save_failed:  # logged once, not every second
                log.warning("what happened can't be kept: %s; it is forgotten at a restart", error)
            self._save_failed = True
        else:
            self._save_failed = False

    def _for_ever(self, step: Callable[[], None], interval_s: float) -> None:
        """Repeat a step; one that fails is logged, and does not end the loop."""
        while True:
            try:
                step()
            except Exception:
                log.exception("a step of the pusher failed")
            gevent.sleep(interval_s)


def _listen(address: Path | str) -> socket.socket:
    """Return a listening socket, at host:port; or a unix socket for this user alone, in place of one that is left."""
    if isinstance(address, str):
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))  # for this user alone: see the umask in __main__
    listener.listen(BACKLOG)
    return listener
