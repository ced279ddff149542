"""Who may call: keys in whatever header a client of ours puts them.

Guarded is the rule, so that a new route is safe before anyone thinks of it; what is open is listed here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from flask import Flask, g, request
from werkzeug.datastructures import Headers

from pusher.events import keys_in
from webapp.errors import UnauthorizedError

OPEN_PATHS = frozenset(
    {
        "/",
        "/health",
        "/healthz",
        "/infinity/health",
        "/live",
        "/ready",
        "/ping",
        "/version",
        "/metrics",
        "/v1/health",
        "/v1/health/live",
        "/v1/health/ready",
        "/v1/cluster/auth",
        "/.well-known/live",
        "/.well-known/ready",
        "/docs",
        "/openapi.json",
        "/api-doc/openapi.json",
    }
)
"""What load balancers ask and what a person reads, by GET: none of it costs a score."""

OPEN_PREFIX = "/docs/"


class Keys:
    """The keys that open the service; none means that it stands open."""

    def __init__(self, keys: Iterable[str]) -> None:
        # Digests are of one length, and no key stays in memory.
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def fitting(self, headers: Headers) -> str | None:
        """The key of ours in these headers, if there is one; takes as long for a wrong key as for a right one."""
        fitting = None
        for given in keys_in(headers):
            digest = _digest(given)
            for known in self._digests:
                if hmac.compare_digest(digest, known):
                    fitting = given
        return fitting


def is_open(method: str, path: str) -> bool:
    """Whether a route needs no key."""
    path = path.rstrip("/") or "/"
    return method in {"GET", "HEAD", "OPTIONS"} and (path in OPEN_PATHS or path.startswith(OPEN_PREFIX))


def install(app: Flask, keys: Keys) -> None:
    """Ask for a key before every request that is not open."""

    def check() -> None:
        if is_open(request.method, request.path):
            return
        g.api_key = keys.fitting(request.headers)
        if g.api_key is None:
            raise UnauthorizedError("no valid API key; send one as Authorization: Bearer <key>")

    if keys:
        app.before_request(check)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
