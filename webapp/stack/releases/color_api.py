"""A color's own API, over its socket: what the deploy asks before clients may."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.api_keys import SYNTHETIC_HEADER, own_key
from webapp.config.paths import socket_of
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError

SOON_S = 1.0
"""supervisord keeps the socket of a program that starts or ends: who connects then waits, and is not told off."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            SetupError: it is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise SetupError(f"an answer with status {self.status} is no JSON") from error


class UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ColorApi:
    """One color's API."""

    def __init__(self, settings: Settings, color: str) -> None:
        """Name it.

        Args:
            settings: of its release: where it listens, and keys.
            color: blue or green.
        """
        self._socket = socket_of(settings.run_dir, color)
        key = own_key(settings.own_key)
        self._headers = {"X-Api-Key": key, SYNTHETIC_HEADER: "1"} if key else {}

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, timeout_s: float = 10.0
    ) -> Reply:
        """GET, or POST where there is a body.

        Raises:
            OSError: nobody answers.
        """
        connection = UnixConnection(self._socket, timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", path, data, {**self._headers, **(headers or {})})
            reply = connection.getresponse()
            return Reply(reply.status, reply.read())
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer broke off ({type(error).__name__})") from error
        finally:
            connection.close()

    def is_ready(self, *, timeout_s: float = 5.0) -> bool:
        """Whether it made a real score, and admits requests."""
        try:
            return self.ask("/ready", timeout_s=timeout_s).status == 200  # noqa: PLR2004
        except OSError:
            return False

    def release(self) -> int:
        """Number of the release that answers; 0 when nobody does."""
        try:
            return int(self.ask("/deployment_color", timeout_s=SOON_S).json()["release"])
        except (OSError, SetupError, KeyError, TypeError):
            return 0

    def ongoing(self) -> int | None:
        """Requests at work in one of its workers, whichever takes the call; None when nobody answers."""
        try:
            return int(self.ask("/load", timeout_s=SOON_S).json()["server_load"])
        except (OSError, SetupError, KeyError, TypeError):
            return None
