"""Connections to the pusher that nobody let in: real engine.io sessions."""

import json
import os
import socket
import subprocess
import sys

import pytest
from flask import Flask
from flask_socketio import SocketIO
from running import PATIENCE_S, wait_for

from contracts.api_keys import KeyRing
from pusher import sockets
from pusher.access import Access
from pusher.relay import Relay
from pusher.sockets import JOIN_S, Sockets

KEY = "the-key"


class Browsers:
    """Sessions at one `Sockets`."""

    def __init__(self, keys: str) -> None:
        app = Flask("pusher", static_folder=None)
        socketio = SocketIO(app, async_mode="threading", manage_session=False)
        self.sockets = Sockets(socketio, Relay(0.0), Access(KeyRing(keys), KeyRing("")))
        self._sessions = socketio.server.eio.sockets
        self._client = app.test_client()

    def open(self) -> str:
        """A session of engine.io alone."""
        reply = self._client.get("/socket.io/?EIO=4&transport=polling")
        return json.loads(reply.text[1:])["sid"]

    def join(self, session: str, key: str = "") -> None:
        """Ask to be let in by Socket.IO."""
        body = "40" + json.dumps({"key": key})
        self._client.post(f"/socket.io/?EIO=4&transport=polling&sid={session}", data=body)
        # What it is answered; the connect handler has run by then.
        self._client.get(f"/socket.io/?EIO=4&transport=polling&sid={session}")

    def left(self) -> set[str]:
        return {name for name, session in self._sessions.items() if not session.closed}


@pytest.mark.parametrize("keys", [KEY, ""], ids=["keys", "no keys"])
def test_only_clients_that_join_in_time_stay_connected(keys):
    browsers = Browsers(keys)
    idle, guest, wrong = (browsers.open() for _ in range(3))
    browsers.join(guest, KEY)
    browsers.join(wrong, "another")
    let_in = {guest} if keys else {guest, wrong}
    browsers.sockets.disconnect_strangers(100.0)
    assert browsers.left() == {idle, guest, wrong}
    late = browsers.open()
    browsers.sockets.disconnect_strangers(100.0 + JOIN_S - 1)
    assert browsers.left() == {idle, guest, wrong, late}
    browsers.sockets.disconnect_strangers(100.0 + JOIN_S)
    assert browsers.left() == let_in | {late}


def test_strangers_beyond_the_most_are_disconnected_at_once_the_oldest_first(monkeypatch):
    monkeypatch.setattr(sockets, "MOST_STRANGERS", 2)
    browsers = Browsers(KEY)
    opened = [browsers.open() for _ in range(5)]
    browsers.sockets.disconnect_strangers(100.0)
    assert browsers.left() == set(opened[-2:])


@pytest.mark.parametrize("odd", [{}, [], None, 3, "two words"], ids=repr)
def test_what_is_no_id_is_not_followed_and_fails_in_no_handler(odd):
    app = Flask("pusher", static_folder=None)
    socketio = SocketIO(app, async_mode="threading", manage_session=False)
    Sockets(socketio, Relay(0.0), Access(KeyRing(), KeyRing()))
    browser = socketio.test_client(app)
    assert browser.emit("follow", odd, callback=True) == {"ok": False, "error": "invalid_request"}
    assert browser.emit("unfollow", odd, callback=True) == {"ok": True}


UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_message_that_goes_on_and_on_is_not_kept(tmp_path):
    """engine.io would look at its length at its end."""
    environment = {**os.environ, "RERANK_STATE_DIR": str(tmp_path)}
    path, length = tmp_path / "run" / "pusher.sock", 100_000_000
    with subprocess.Popen([sys.executable, "-m", "pusher"], env=environment) as pusher:
        try:
            with socket.socket(socket.AF_UNIX) as browser:
                browser.settimeout(PATIENCE_S)
                wait_for(lambda: browser.connect_ex(str(path)) == 0, "it listens")
                browser.sendall(UPGRADE)
                assert b" 101 " in browser.recv(65536)
                browser.sendall(b"\x81\xff" + length.to_bytes(8, "big") + bytes(4))
                with pytest.raises((BrokenPipeError, ConnectionResetError)):
                    browser.sendall(b"x" * length)
        finally:
            pusher.terminate()
