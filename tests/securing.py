"""A stack with everything on: named keys, limits, TLS, CORS; and ways to come to it."""

import http.client
import json
import socket
import ssl
from pathlib import Path

import requests
from running import PATIENCE_S, Stack, free_port

from contracts.api_keys import Key, digest_of, line_of, new_key

ORIGIN = "https://app.example"

GUESSES_PER_MINUTE = 300
"""Requests that an address may send without a key. A test that uses them up comes from an address of its own."""

BODY = json.dumps({"query": "q", "documents": ["a", "b"]}).encode()


class Secured:
    """The stack, its keys, and ways to come to it."""

    def __init__(self, state_dir: Path) -> None:
        self.key_file = state_dir.parent / f"{state_dir.name}-keys"
        self.keys = {name: new_key() for name in ("search", "frugal", "brisk", "ops")}
        known = [
            Key("search", digest_of(self.keys["search"])),
            Key("frugal", digest_of(self.keys["frugal"]), documents_per_minute=10),
            Key("brisk", digest_of(self.keys["brisk"]), requests_per_minute=2),
            Key("ops", digest_of(self.keys["ops"]), operator=True),
        ]
        self.key_file.write_text("".join(f"{line_of(key)}\n" for key in known))
        self.keys["setting-2"] = "of-the-setting"
        self.plain_port = free_port()
        self.stack = Stack(
            state_dir,
            engine="stub",
            api_keys="another,of-the-setting",
            api_keys_file=str(self.key_file),
            requests_per_minute=str(GUESSES_PER_MINUTE),
            tls="self-signed",
            hsts_s="3600",
            plain_port=str(self.plain_port),
            cors_origins=f"{ORIGIN}, https://other.example:8443",
        )
        self.url = self.stack.url = self.stack.url.replace("http:", "https:")
        self.cert = state_dir / "tls" / "cert.pem"

    def ask(self, method="POST", path="/rerank", *, key=None, headers=(), **options) -> requests.Response:
        """Send a request by `requests`, trusting the stack's certificate."""
        if method == "POST":
            options.setdefault("data", BODY)
        headers = dict(headers) | ({"X-Api-Key": self.keys[key]} if key else {})
        return requests.request(
            method, self.url + path, headers=headers, verify=str(self.cert), timeout=PATIENCE_S, **options
        )

    def literal(self, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
        """Send a request with the path as it is written: `requests` would tidy it up."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.stack.port, context=self.trust(), timeout=PATIENCE_S)
        connection.request(method, path, BODY if method == "POST" else None, headers)
        answer = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer

    def session(self) -> requests.Session:
        """Return a session for clients that bring their own requests."""
        session = requests.Session()
        session.trust_env = False  # another bundle there would win
        session.verify = str(self.cert)
        return session

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))

    def send(self, data: bytes, *, source: str = "127.0.0.1") -> bytes:
        """Bytes to nginx over TLS; all that comes back."""
        connection = socket.create_connection(
            ("127.0.0.1", self.stack.port), timeout=PATIENCE_S, source_address=(source, 0)
        )
        with self.trust().wrap_socket(connection, server_hostname="127.0.0.1") as wrapped:
            wrapped.sendall(data)
            return _all_of(wrapped)

    def send_to_webapp(self, data: bytes) -> bytes:
        """Bytes to gunicorn itself, as only our own user can."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.stack.state_dir / "run" / "webapp-blue.sock"))
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return _all_of(connection)


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return received
