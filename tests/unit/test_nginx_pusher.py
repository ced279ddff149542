"""nginx before a pusher that runs elsewhere: by its address, or by a name that DNS knows, not yet knows, or moves."""

import contextlib
import http.server
import socket
import socketserver
import struct
import threading

import pytest
from nginx_kit import NGINX, Door
from running import free_port, wait_for

from webapp.config.settings import Settings
from webapp.stack.nginx import config

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

NAME = "pusher.example.internal"

LONG_S = 60


class _Pusher(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = f"{self.server.server_address[0]} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def pusher(host, port):
    """What says at which address it was reached, and for which path."""
    with http.server.ThreadingHTTPServer((host, port), _Pusher) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


class Dns(socketserver.ThreadingUDPServer):
    """Says for every name that it has this address, or that there is no such name."""

    address = ""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self._answer)

    def _answer(self, request, client, _server):
        query, reply_to = request
        question = query[12 : query.index(b"\0", 12) + 5]
        kind = struct.unpack(">H", question[-4:-2])[0]
        found = self.address and kind == 1
        head = query[:2] + struct.pack(">HHHHH", 0x8180 if self.address else 0x8183, 1, 1 if found else 0, 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, LONG_S, 4) + socket.inet_aton(self.address) if found else b""
        reply_to.sendto(head + question + record, client)


@pytest.fixture
def dns(monkeypatch):
    with Dns() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(config, "nameservers", lambda *_: [f"127.0.0.1:{server.server_address[1]}"])
        yield server
        server.shutdown()


def asked(door, path="/progress/x"):
    """Status and body."""
    head, _, body = door.get(path).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.mark.slow
def test_a_name_that_dns_does_not_know_is_refused_for_until_it_does_and_followed_when_it_moves(tmp_path, dns):
    """DNS says that what it says holds for a minute; nginx asks again earlier."""
    port = free_port()
    with (
        Door(tmp_path, pusher_url=f"http://{NAME}:{port}") as door,
        pusher("127.0.0.2", port),
        pusher("127.0.0.3", port),
    ):
        status, body = asked(door)
        assert (status, "does not answer" in body) == (503, True)
        assert asked(door, "/dashboard/icon.svg")[0] == 200
        for dns.address in ("127.0.0.2", "127.0.0.3"):
            new = (200, f"{dns.address} /progress/x")
            wait_for(lambda new=new: {asked(door) for _ in range(20)} == {new}, "all of nginx' workers ask there")
        assert asked(door, "/socket.io/?EIO=4&a=%20b") == (200, "127.0.0.3 /socket.io/?EIO=4&a=%20b")
        assert asked(door, "/live")[0] == 503, "no other path goes to the pusher"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_an_address_needs_no_dns(tmp_path, host):
    port = free_port()
    listens = {"localhost": "127.0.0.1"}.get(host, host.strip("[]"))
    if ":" in host:

        class Six(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6

        server = Six((listens, port), _Pusher)
    else:
        server = http.server.ThreadingHTTPServer((listens, port), _Pusher)
    with server, Door(tmp_path, pusher_url=f"http://{host}:{port}") as door:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert asked(door) == (200, f"{listens} /progress/x")
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("search a.example\nnameserver 10.0.0.2\nnameserver fd00::2  # the second\n", ["10.0.0.2", "[fd00::2]"]),
        ("nameserver fe80::1%eth0\nnameserver\n", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
        (None, ["127.0.0.1"]),
    ],
)
def test_nameservers_are_those_of_this_machine(tmp_path, text, found):
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text)
    assert config.nameservers(path) == found


def test_a_balancer_has_the_dashboard_of_all_only_with_a_pusher_of_all(tmp_path):
    settings = {"stacks": "http://10.0.0.7:8080", "state_dir": tmp_path}
    assert "dashboard/index.html" not in config.balancer_conf(Settings(**settings))
    assert "dashboard/index.html" in config.balancer_conf(Settings(**settings, pusher_url="http://10.0.0.5:8081"))
