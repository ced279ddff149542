"""bench/load.py: a benchmark that loses requests silently measures nothing."""

import importlib.util
import socket
import sys
import threading
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("load", Path(__file__).parents[2] / "bench" / "load.py")
load = importlib.util.module_from_spec(SPEC)
sys.modules["load"] = load
SPEC.loader.exec_module(load)


@pytest.fixture
def server():
    """Answers each connection's requests with the parts given, however they are cut."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(*parts):
        def handle(connection):
            with connection:
                while data := connection.recv(65536):
                    assert data.startswith(b"POST /rerank HTTP/1.1\r\n")
                    for part in parts:
                        connection.sendall(part)
                    if not parts:
                        return

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    yield serve
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"


def test_every_body_is_sent_once(server):
    port = server(OK + b'{"a":1}')
    outcome = load.closed_loop(port, [b"{}"] * 9, 3)
    assert (outcome.requests, len(outcome.latencies_ms)) == (9, 9)
    assert outcome.latencies_ms == sorted(outcome.latencies_ms)


def test_a_reply_may_come_in_pieces(server):
    assert load.closed_loop(server(OK[:20], OK[20:], b'{"a"', b":1}"), [b"{}"], 1).requests == 1


@pytest.mark.parametrize(
    ("parts", "why"),
    [([b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"], "503 b'busy'"), ([], "closed the connection")],
)
def test_a_failure_is_no_result(server, parts, why):
    with pytest.raises(RuntimeError, match=why):
        load.closed_loop(server(*parts), [b"{}"], 1)
