"""The public door, on a real nginx: what it lets in of one address, and that others find room."""

import contextlib
import ctypes
import json
import select
import shutil
import signal
import ssl
import subprocess
import threading

import pytest
from nginx_kit import NGINX, PAGE, Door
from running import PATIENCE_S, wait_for

import webapp.stack.processes
from contracts.logging.line import FIRST
from webapp.config.settings import Settings
from webapp.stack.nginx.config import (
    KEYLESS_KEEP_ALIVE_S,
    KEYLESS_PER_ADDRESS,
    LARGE_BODIES_PER_ADDRESS,
    Nginx,
    inspect_nginx,
    limits_of,
    nginx_conf,
)
from webapp.stack.processes import NginxShutdown

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

PER_ADDRESS = 20
BALANCER = "127.0.0.9"
OTHER = "127.0.0.3"

MOST_STREAMS = 64
"""HTTP/2 streams of a connection at once."""

DATA, HEADERS, RESET, SETTINGS, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
END_STREAM, END_HEADERS = 0x1, 0x4

SLOW = b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n%s\r\n"


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    made = tmp_path_factory.mktemp("door")
    with Door(made, connections_per_address=PER_ADDRESS, balancers=BALANCER, max_ongoing_requests=1) as running:
        yield running


@contextlib.contextmanager
def held(door, count, source=None, opening=b"GET / HT"):
    """Connections of one address that have sent this, by default half a request line."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(door.connect(source)) for _ in range(count)]
        for connection in made:
            with contextlib.suppress(ConnectionError):
                connection.sendall(opening)
        yield made


def lines(door, **of):
    """The lines of our own shape that nginx has written, with these fields."""
    said = [json.loads(line) for line in door.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in said if of.items() <= line.items()]


def answered_or_closed(connections):
    """How many of these have been answered or closed."""
    readable = select.poll()
    for connection in connections:
        readable.register(connection, select.POLLIN)
    return len(readable.poll(0))


def test_an_address_has_its_share_of_connections_before_a_request_is_whole(door):
    with held(door, PER_ADDRESS + 110, "127.0.0.2") as connections:
        wait_for(lambda: answered_or_closed(connections) == 110, "those beyond the share are closed")
        assert door.get(source="127.0.0.2") == b""
        assert b" 200 " in door.get(source=OTHER)
        wait_for(lambda: door.get(source="127.0.0.2") == b"" and lines(door, logger="nginx.door"), "a line in the log")
    (line, *_) = lines(door, logger="nginx.door")
    assert (line["code"], line["remote"]) == ("overloaded", "127.0.0.2")
    assert set(FIRST) <= set(line)
    wait_for(lambda: b" 200 " in door.get(source="127.0.0.2"), "the places are free again")


def test_a_balancer_has_as_many_connections_as_it_likes(door):
    with held(door, PER_ADDRESS + 10, BALANCER) as connections:
        assert b" 200 " in door.get(source=BALANCER)
        assert answered_or_closed(connections) == 0


@pytest.mark.parametrize("length", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_bodies_of_one_address_that_may_fill_the_disk_are_few_at_once(tmp_path, length):
    opening = f"POST /rerank HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode()
    with Door(tmp_path) as running, held(running, LARGE_BODIES_PER_ADDRESS + 3, opening=opening) as connections:
        wait_for(lambda: answered_or_closed(connections) == 3, "those beyond it are refused")
        with running.connect() as small, running.connect(OTHER) as other:
            small.sendall(SLOW % b"" + b"012345678")
            other.sendall(opening)
            assert b" 503 " in small.recv(99)  # its program isn't there; it is not 429
            assert answered_or_closed([other]) == 0


def test_what_is_no_rerank_waits_on_no_disk(door):
    assert b" 413 " in door.get("/socket.io/", source=OTHER, head="Content-Length: 1048577\r\n")


def test_only_the_balancer_may_name_the_caller_s_address(door):
    claim = "X-Forwarded-For: 10.8.8.8, 10.9.9.9\r\nX-Request-Id: {}\r\n"
    door.get("/none", source=BALANCER, head=claim.format("balanced"))
    door.get("/none", source=OTHER, head=claim.format("direct"))

    def remote(request_id):
        return [line["remote"] for line in lines(door, request_id=request_id)]

    assert wait_for(lambda: remote("balanced"), "the line") == ["10.9.9.9"]
    assert wait_for(lambda: remote("direct"), "the line") == [OTHER]


def test_an_ipv6_network_of_64_bits_is_one_caller_of_requests(door):
    def head(network, number):
        return SLOW % f"X-Forwarded-For: 2001:db8:0:{network}::{number:x}\r\n".encode()

    share = limits_of(door.settings, Nginx()).requests_per_address
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(share + 5):
            made.append(stack.enter_context(door.connect(BALANCER)))
            made[-1].sendall(head(1, number))
        wait_for(lambda: answered_or_closed(made) == 5, "those beyond the share are refused")
        other = stack.enter_context(door.connect(BALANCER))
        other.sendall(head(2, 1) + b"012345678")
        assert b" 503 " in other.recv(4096)  # its program isn't there; it is not 429


def test_an_ipv6_network_of_64_bits_has_one_share_of_connections(tmp_path):
    """In a network of this thread's own, where the addresses are."""
    seen = {}

    def trial():
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):  # CLONE_NEWNET, of this thread
            return
        # nginx has a network of its own: what looks whether it listens comes from there, and takes nobody's share.
        host = "2001:db8:0:2::1"
        addresses = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", host)
        for command in (
            ["link", "set", "lo", "up"],
            *(["address", "add", f"{each}/64", "dev", "lo", "nodad"] for each in addresses),
        ):
            subprocess.run(["ip", *command], check=True)
        with (
            Door(tmp_path, host=host, connections_per_address=PER_ADDRESS) as running,
            held(running, PER_ADDRESS + 5, "2001:db8::2") as connections,
        ):
            wait_for(lambda: answered_or_closed(connections) == 5, "those beyond the share are closed")
            seen["same network"] = running.get(source="2001:db8::1")
            seen["other network"] = running.get(source="2001:db8:0:1::1")[:15]

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    if not seen:
        pytest.skip("may make no network of its own here")
    assert seen == {"same network": b"", "other network": b"HTTP/1.1 200 OK"}


def test_a_killed_nginx_leaves_nothing_that_keeps_its_successor_from_starting(door):
    left = door.kill_master()
    assert list((door.settings.run_dir / "nginx").glob("*.sock"))
    door.start()

    def answers():
        with contextlib.suppress(ConnectionRefusedError):  # the old workers are gone, the successor begins
            return b" 200 " in door.get()

    wait_for(answers, "the successor, for the old workers take connections until they are gone")
    wait_for(lambda: not any(worker.is_running() for worker in left), "the old workers are gone")
    wait_for(answers, "the successor")


def finishes(running, shutdown, at_work):
    """Tell it to quit while this connection has a request at work, and see that answered."""
    at_work.sendall(SLOW % b"")
    running.process.send_signal(signal.SIGQUIT)
    wait_for(lambda: not running.listens(), "it lets nobody in")
    for _ in range(5):
        shutdown.step()
    at_work.sendall(b"012345678")
    assert b" 503 " in at_work.recv(4096)  # its program isn't there


def test_told_to_quit_it_answers_and_then_waits_for_no_client_that_keeps_its_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(webapp.stack.processes, "IDLE_S", 0)
    with Door(tmp_path) as running, running.connect() as idle, running.connect() as at_work:
        shutdown = NginxShutdown(running.settings.run_dir)
        idle.sendall(f"GET {PAGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in idle.recv(4096)
        finishes(running, shutdown, at_work)
        wait_for(lambda: shutdown.step() or running.process.poll() is not None, "its end")


def test_it_waits_for_no_idle_client_either_when_the_run_directory_was_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(webapp.stack.processes, "IDLE_S", 0)
    with Door(tmp_path) as running, running.connect() as idle:
        shutdown = NginxShutdown(running.settings.run_dir, lambda: running.process.pid)
        idle.sendall(f"GET {PAGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in idle.recv(4096)
        shutil.rmtree(running.settings.run_dir)
        running.process.send_signal(signal.SIGQUIT)
        wait_for(lambda: shutdown.step() or running.process.poll() is not None, "its end")


def test_without_the_stream_module_it_serves_and_finishes_what_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(webapp.stack.processes, "IDLE_S", 0)
    nginx = Nginx(inspect_nginx(NGINX).version, stream=None)
    with Door(tmp_path, nginx=nginx, balancers=BALANCER) as running, running.connect() as at_work:
        shutdown = NginxShutdown(running.settings.run_dir)
        assert b" 200 " in running.get()
        finishes(running, shutdown, at_work)
        wait_for(lambda: running.process.poll() is not None, "its end")


@pytest.mark.parametrize(
    ("said", "stream"),
    [
        ("nginx version: nginx/1.27.3\nconfigure arguments: --with-stream --with-stream_ssl_module", ""),
        ("nginx version: nginx/1.24.0 (Ubuntu)\nconfigure arguments: --modules-path={} --with-stream=dynamic", "{}"),
        (
            "nginx version: nginx/1.24.0 (Ubuntu)\nconfigure arguments: --modules-path=/nowhere --with-stream=dynamic",
            None,
        ),
        ("nginx version: nginx/1.22.1\nconfigure arguments: --with-stream_ssl_module", None),
        ("nginx version: nginx/1.18.0\nconfigure arguments: --with-stream", None),
    ],
    ids=["compiled in", "to be loaded", "not installed", "not built", "too old"],
)
def test_nginx_itself_tells_whether_it_counts_connections(tmp_path, said, stream):
    (tmp_path / "ngx_stream_module.so").touch()
    program = tmp_path / "nginx"
    program.write_text(f"#!/bin/sh\necho '{said.format(tmp_path)}' >&2\n")
    program.chmod(0o755)
    expected = stream and stream.format(tmp_path / "ngx_stream_module.so")
    assert inspect_nginx(str(program)).stream == expected


@pytest.mark.parametrize("files", [8192, 20_000, 1_048_576])
@pytest.mark.parametrize("workers", [1, 2, 64])
@pytest.mark.parametrize("webapps", [1, 8, 64])
def test_one_address_never_has_half_of_all_connections(files, workers, webapps):
    nginx = Nginx(files=files, workers=workers)
    limits = limits_of(Settings(workers=webapps), nginx)
    clients = limits.connections * workers // 4
    assert limits.connections_per_address <= clients // 2
    assert limits.connections_per_address < limits.connections_of_strangers < clients
    assert limits.connections < limits.files <= files


class Http2:
    """A client that sends frames as it likes."""

    def __init__(self, door) -> None:
        context = ssl.create_default_context(cafile=str(door.settings.state_dir / "tls" / "cert.pem"))
        context.set_alpn_protocols(["h2"])
        self._tls = context.wrap_socket(door.connect(), server_hostname="127.0.0.1")
        self._came = b""
        self.closed = False
        self._tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(SETTINGS, 0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._tls.close()

    def request(self, stream, path, *, post=False, reset=False):
        method, flags = (0x83, END_HEADERS) if post else (0x82, END_HEADERS | END_STREAM)
        block = bytes((method, 0x87, 0x04, len(path))) + path.encode() + b"\x01\x01x"
        self._send(self._frame(HEADERS, flags, stream, block))
        if reset:
            self._send(self._frame(RESET, 0, stream, b"\0\0\0\x08"))

    def frames(self, kind):
        """How many of this kind have come by now."""
        self._tls.setblocking(False)
        try:
            while part := self._tls.recv(65536):
                self._came += part
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except OSError:
            self.closed = True
        self._tls.settimeout(PATIENCE_S)
        place, count = 0, 0
        while place + 9 <= len(self._came):
            count += self._came[place + 3] == kind
            place += 9 + int.from_bytes(self._came[place : place + 3], "big")
        return count

    def _send(self, data):
        try:
            self._tls.sendall(data)
        except OSError:
            self.closed = True

    @staticmethod
    def _frame(kind, flags, stream, payload=b""):
        return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    with Door(tmp_path_factory.mktemp("secure"), tls="self-signed", max_ongoing_requests=1) as running:
        yield running


def test_http_2_streams_count_as_requests_of_their_address(secure):
    share = min(
        limits_of(secure.settings, Nginx()).requests_per_address, LARGE_BODIES_PER_ADDRESS
    )  # their length is not known
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Http2(secure)) for _ in range(3)]
        for client in clients:
            for number in range(MOST_STREAMS):
                client.request(2 * number + 1, "/rerank", post=True)
        beyond = 3 * MOST_STREAMS - share
        wait_for(lambda: sum(client.frames(HEADERS) for client in clients) == beyond, "those beyond it are refused")


def test_rapid_resets_end_their_connection_and_no_other(secure):
    with Http2(secure) as hasty, Http2(secure) as other:
        for number in range(1100):
            hasty.request(2 * number + 1, PAGE, reset=True)
        wait_for(lambda: hasty.frames(GOAWAY) or hasty.closed, "the hasty one has to connect anew")
        other.request(1, PAGE)
        wait_for(lambda: other.frames(HEADERS) == 1, "the other is answered")


def test_a_client_without_a_key_has_few_requests_at_once_and_a_short_keep_alive(tmp_path):
    with Door(tmp_path, api_keys="k") as running, running.connect() as keyed:
        with held(running, KEYLESS_PER_ADDRESS + 3, opening=SLOW % b"") as keyless:
            wait_for(lambda: answered_or_closed(keyless) == 3, "those beyond it are refused")
            assert all(
                b" 429 " in (said := each.recv(4096)) and b'"overloaded"' in said
                for each in keyless
                if answered_or_closed([each])
            )
        wait_for(lambda: b" 429 " not in running.get("/info"), "there is room again")
        assert b'"unavailable"' in running.get("/info")
        keyed.sendall(SLOW % b"X-Api-Key: k\r\n" + b"012345678")
        assert b" 503 " in keyed.recv(99)  # its program isn't there; it is not 429
    conf = nginx_conf(running.settings)
    assert f"        keepalive_timeout {KEYLESS_KEEP_ALIVE_S}s;\n" in conf
    assert "            keepalive_timeout 75s;\n" in conf
