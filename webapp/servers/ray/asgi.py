"""The WSGI application behind an asyncio server: an ASGI request in, the same bytes out as under gunicorn.

A WSGI-to-ASGI library would run each request in a thread, and the service is written for one thread; see `bridge`.
This translates between PEP 3333 and the HTTP part of ASGI 3, and knows nothing of ours.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import WSGIApplication

from webapp.domain.errors import CancelledError
from webapp.servers.ray.bridge import in_greenlet, wait_for

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


@dataclass(slots=True)
class Reply:
    """A whole reply."""

    status: int = 500
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class _Body(io.RawIOBase):
    """A body that is received as the app reads it; the app may refuse the request before."""

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self._receive = receive
        self._part = memoryview(b"")
        self._more = True
        self.hung_up = False
        """Whether the caller hung up before it had sent all."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least a byte of what came; wait if nothing did."""
        while not self._part and self._more:
            message = wait_for(self._receive())
            if message["type"] == "http.disconnect":
                self.hung_up, self._more = True, False
                raise CancelledError("the caller hung up")
            self._part = memoryview(message.get("body", b""))
            self._more = message.get("more_body", False)
        part, self._part = self._part[: len(buffer)], self._part[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


async def answer(app: WSGIApplication, scope: Scope, receive: Receive) -> Reply | None:
    """Answer one request.

    Args:
        app: the WSGI application; it may wait by the bridge.
        scope: ASGI's, of type `http`.
        receive: ASGI's; receives the body.

    Returns:
        The reply; None when the caller hung up before it had sent all.
    """
    body = _Body(receive)
    environ = environ_of(scope, body)
    reply = await in_greenlet(lambda: _call(app, environ))
    return None if body.hung_up else reply


def environ_of(scope: Scope, body: io.RawIOBase) -> dict[str, Any]:
    """Return the environment of a request, as PEP 3333 has it."""
    host, port = scope.get("server") or ("localhost", 80)
    client = scope.get("client") or ("", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": _wsgi_text(scope.get("root_path", "")),
        "PATH_INFO": _wsgi_text(scope["path"]),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1")
        if "_" in name:  # `X_Forwarded_For` would become X-Forwarded-For; nginx and gunicorn drop them, too
            continue
        key = "HTTP_" + name.upper().replace("-", "_")
        key = {"HTTP_CONTENT_TYPE": "CONTENT_TYPE", "HTTP_CONTENT_LENGTH": "CONTENT_LENGTH"}.get(key, key)
        value = raw_value.decode("latin-1")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return environ


def _wsgi_text(text: str) -> str:
    """Return a text as PEP 3333 has it: bytes, decoded as Latin-1."""
    return text.encode().decode("latin-1")


def _call(app: WSGIApplication, environ: dict[str, Any]) -> Reply:
    reply = Reply()

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Callable[[bytes], object]:
        reply.status, reply.headers = int(status.split(" ", 1)[0]), headers
        return written.append

    written: list[bytes] = []
    parts: Iterable[bytes] = app(environ, start_response)
    try:
        written.extend(parts)
    finally:
        if close := getattr(parts, "close", None):
            close()
    reply.body = b"".join(written)
    return reply
