"""Clients that misbehave, beside one that does not."""

import json
import select
import socket

import psutil
import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

from webapp.stack.nginx.config import REFUSED_AT_ONCE

pytestmark = pytest.mark.slow

NGINX_KEEPS = 2 * 16
"""Idle connections to the worker: `keepalive` of each nginx worker."""

BODY = json.dumps({"query": "q", "documents": [f"document {number}" for number in range(20)]}).encode()
HEAD = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n".encode()


def counters(stack):
    """What must return to where it was: requests at work, and the worker's file descriptors."""
    (worker,) = stack.workers()
    at_work = requests.get(f"{stack.url}/load", timeout=PATIENCE_S).json()["server_load"]
    return at_work, psutil.Process(worker).num_fds()


def works(stack):
    return stack.rerank().status_code == 200


def receive_all(connection):
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


@pytest.fixture(scope="module")
def stack(bert_settings, tmp_path_factory):
    state_dir = tmp_path_factory.mktemp("rubbish")
    with Stack(state_dir, artifacts_from=bert_settings.state_dir, model=bert_settings.model) as running:
        running.rerank()
        yield running


@pytest.fixture(autouse=True)
def nothing_leaks(stack):
    """After each trial the service works as before, and holds nothing of it but what nginx keeps open on purpose."""
    before = counters(stack)
    yield
    assert works(stack)
    wait_for(lambda: counters(stack)[0] == 0 and counters(stack)[1] <= before[1] + NGINX_KEEPS, "all is let go")


def test_clients_that_abort(stack):
    for cut in range(1, 40):
        with stack.raw() as connection:
            whole = HEAD + b"\r\n" + BODY
            connection.sendall(whole[: len(whole) * cut // 39])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST, not FIN


def test_one_byte_at_a_time_and_a_thousand_idle_connections(stack):
    idle = [stack.raw() for _ in range(1000)]
    slow = [stack.raw() for _ in range(50)]
    for position in range(20):
        for connection in slow:
            connection.sendall(HEAD[position : position + 1])
        assert works(stack)
    for connection in idle + slow:
        connection.close()


def test_half_closed_connections(stack):
    for _ in range(20):
        with stack.raw() as connection:
            connection.sendall(HEAD + b"\r\n" + BODY)
            connection.shutdown(socket.SHUT_WR)
            receive_all(connection)  # an answer or none, but an end


def test_http_1_0_and_pipelining_are_answered(stack):
    with stack.raw() as connection:
        connection.sendall(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + BODY)
        assert b" 200 " in receive_all(connection).split(b"\r\n")[0]
    with stack.raw() as connection:
        connection.sendall(2 * (HEAD + b"\r\n" + BODY) + HEAD + b"Connection: close\r\n\r\n" + BODY)
        assert receive_all(connection).count(b"HTTP/1.1 200 OK") == 3


def test_a_body_of_a_hundred_megabytes_is_refused_and_read_no_further(stack):
    with stack.raw() as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n" + b"x" * 65536)
        assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]


def test_an_address_that_floods_is_refused_beyond_its_share_and_others_are_not(stack):
    share = 512 + REFUSED_AT_ONCE
    flood = [stack.raw() for _ in range(share + 20)]
    for connection in flood:
        connection.sendall(HEAD + b"\r\n" + BODY[:1])  # a place is taken from here on
    readable = select.poll()
    for connection in flood:
        readable.register(connection, select.POLLIN)
    wait_for(lambda: len(readable.poll(0)) == 20, "those beyond the share are refused")
    (refused, *_) = [each for each in flood if each.fileno() == readable.poll(0)[0][0]]
    head, _, body = refused.recv(65536).partition(b"\r\n\r\n")
    assert b" 429 " in head.split(b"\r\n")[0]
    assert b"\r\nRetry-After: 1" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["retryable"]) == ("overloaded", True)
    with stack.raw(source="127.0.0.2") as other:
        other.sendall(HEAD + b"Connection: close\r\n\r\n" + BODY)
        assert b" 200 " in receive_all(other).split(b"\r\n")[0]
    for connection in flood:
        connection.close()


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 5000, b"POST /rerank HTTP/9.9\r\n\r\n"],
    ids=["TLS", "no path", "zeros", "HTTP/9.9"],
)
def test_what_is_no_http_is_refused(stack, sent):
    with stack.raw() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = receive_all(connection)
    assert b"200" not in answer.split(b"\r\n")[0]
