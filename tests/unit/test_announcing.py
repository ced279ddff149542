"""`reranking serve` says that it is ready, and goes on serving even where one question of its own fails."""

import contextlib
import json
import socket
import threading

import pytest

from webapp.config.settings import Settings
from webapp.stack import serve
from webapp.stack.local_client import ask

INFO = {"model": "it", "engine": "native", "precision": "int8", "substitute_for": None}


class Says:
    """An console that keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


@contextlib.contextmanager
def answering(settings, reply):
    """Settings of a service that answers one connection with these bytes, whatever they are."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            client = listener.accept()[0]
            with client:
                client.recv(65536)
                client.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield settings.model_copy(update={"port": listener.getsockname()[1]})
        thread.join()


def with_body(status, body):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (with_body("200 OK", json.dumps(INFO)), " serves it (native int8)"),
        (with_body("503 Busy", "{}"), "/info says which"),
        (with_body("200 OK", "{}"), "/info says which"),
        (with_body("200 OK", "rubbish"), "/info says which"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", "/info says which"),
        (b"no HTTP\r\n\r\n", "/info says which"),
        (b"", "/info says which"),
    ],
)
def test_what_serves_is_announced_though_its_own_description_fails(tmp_path, reply, said):
    console = Says()
    with answering(Settings(state_dir=tmp_path), reply) as settings:
        serve._announce(settings, console)
    ready, dashboard, started = console.said
    assert ready.startswith(f"Ready: http://127.0.0.1:{settings.port} serves ")
    assert ready.endswith(said)
    assert dashboard.startswith("Dashboard: ")
    assert started.startswith("Started in ")


def test_an_answer_that_is_no_http_is_an_error_of_the_connection(tmp_path):
    with (
        answering(Settings(state_dir=tmp_path), b"no HTTP\r\n\r\n") as settings,
        pytest.raises(ConnectionError, match="BadStatusLine"),
    ):
        ask(settings, "/ready", timeout_s=5)


def test_the_first_request_is_admitted_where_requests_may_hold_one_document():
    assert len(json.loads(serve._FIRST_REQUEST)["documents"]) == Settings(max_documents=1).max_documents
