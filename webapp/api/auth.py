"""Who may call: keys in whatever header a client of ours puts them.

Guarded is the rule, so that a new route is safe before anyone thinks of it; what is open is listed here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator

from flask import Flask, request
from werkzeug.datastructures import Headers

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

    def fit(self, headers: Headers) -> bool:
        """Whether one of the headers carries one of the keys; takes as long for a wrong key as for a right one."""
        fits = False
        for given in candidates(headers):
            digest = _digest(given)
            for known in self._digests:
                fits |= hmac.compare_digest(digest, known)
        return fits


def candidates(headers: Headers) -> Iterator[str]:
    """Every spelling that clients use.

    `Authorization: Bearer k` (most), `Authorization: k` (llama-index' TEI adds no "Bearer"), `x-api-key` (Continue,
    llama.cpp), `Api-Key` (Pinecone). Names of headers are looked up whatever their case.
    """
    if authorization := headers.get("Authorization", "").strip():
        scheme, _, token = authorization.partition(" ")
        yield token.strip() if scheme.lower() == "bearer" and token else authorization
    for name in ("X-Api-Key", "Api-Key"):
        if given := headers.get(name, "").strip():
            yield given


def is_open(method: str, path: str) -> bool:
    """Whether a route needs no key."""
    path = path.rstrip("/") or "/"
    return method in {"GET", "HEAD", "OPTIONS"} and (path in OPEN_PATHS or path.startswith(OPEN_PREFIX))


def install(app: Flask, keys: Keys) -> None:
    """Ask for a key before every request that is not open."""

    def check() -> None:
        if not is_open(request.method, request.path) and not keys.fit(request.headers):
            raise UnauthorizedError("no valid API key; send one as Authorization: Bearer <key>")

    if keys:
        app.before_request(check)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
