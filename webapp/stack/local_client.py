"""HTTP from our own programs to the running service: through its port, or to one color through its unix socket.

The calls carry the stack's own key, so no metric and no dashboard counts them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.api_keys import SYNTHETIC_HEADER, own_key
from webapp.config.paths import socket_of
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.tls import trust_own

SHORT_TIMEOUT_S = 1.0
"""supervisord holds the socket of a program that starts or ends: a client then waits, and nobody refuses it."""


def ask(settings: Settings, path: str, body: bytes | None = None, *, timeout_s: float) -> Any:
    """Call the service of these settings; trust its own certificate, and use no proxy (HTTP_PROXY): it runs here.

    Returns:
        The response, a context manager that can be read.

    Raises:
        OSError: it does not answer, or (urllib.error.HTTPError) answers with an error.
    """
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust_own(settings))
    )
    request = urllib.request.Request(f"{url_of(settings)}{path}", body, _own_headers(settings))
    try:
        return opener.open(request, timeout=timeout_s)
    except http.client.HTTPException as error:
        raise ConnectionError(f"the answer is no HTTP ({type(error).__name__})") from error


def pusher_answers(settings: Settings, timeout_s: float) -> bool:
    """Return whether the pusher at RERANK_PUSHER_URL answers; True where the stack has its own."""
    if not settings.pusher_url:
        return True
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{settings.pusher_url}/live", timeout=timeout_s):
            return True
    except (OSError, http.client.HTTPException):
        return False


def host_of(settings: Settings) -> str:
    """Return the address at which this machine reaches the service of these settings."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound


def url_of(settings: Settings) -> str:
    """Return the URL at which this machine reaches the service of these settings."""
    host = host_of(settings)
    scheme = "https" if settings.has_tls else "http"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response that has been read."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the decoded body.

        Raises:
            SetupError: it is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise SetupError(f"an answer with status {self.status} is no JSON") from error


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_socket(
    address: Path, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, timeout_s: float
) -> Reply:
    """Send a GET request to a unix socket, or a POST request if there is a body, which is sent as JSON.

    Raises:
        OSError: nobody answers.
    """
    with contextlib.closing(_UnixConnection(address, timeout_s)) as connection:
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", path, data, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, reply.read())
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer broke off ({type(error).__name__})") from error


class ColorApi:
    """The API of one color, through its own socket: a deploy checks it there before clients reach it."""

    def __init__(self, settings: Settings, color: str) -> None:
        """Take the address and the key; connect later.

        Args:
            settings: of the color's release.
            color: blue or green.
        """
        self._socket = socket_of(settings.run_dir, color)
        self._headers = _own_headers(settings)

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, timeout_s: float = 10.0
    ) -> Reply:
        """Send a request to the color; see `ask_socket`."""
        return ask_socket(self._socket, path, body, {**self._headers, **(headers or {})}, timeout_s=timeout_s)

    def is_ready(self) -> bool:
        """Return whether it has made a score, and admits requests."""
        try:
            return self.ask("/ready", timeout_s=5.0).status == 200  # noqa: PLR2004
        except OSError:
            return False

    def release(self) -> int:
        """Return the number of the release that answers; 0 when nobody answers."""
        return self._number("/deployment_color", "release") or 0

    def ongoing(self) -> int | None:
        """Return the number of requests at work in the worker that takes this call; None when nobody answers."""
        return self._number("/load", "server_load")

    def _number(self, path: str, field: str) -> int | None:
        try:
            return int(self.ask(path, timeout_s=SHORT_TIMEOUT_S).json()[field])
        except (OSError, SetupError, KeyError, TypeError):
            return None


def _own_headers(settings: Settings) -> dict[str, str]:
    key = own_key(settings.own_key)
    return {"X-Api-Key": key, SYNTHETIC_HEADER: "1"} if key else {}
