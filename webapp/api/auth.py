"""Who may call, and how much: keys in whatever header a client of ours puts them.

Guarded is the rule, so that a new route is safe before anyone thinks of it; what is open is listed here.
"""

from __future__ import annotations

from functools import partial

from flask import Flask, current_app, g, request

from contracts.api_keys import OWN_NAME, SYNTHETIC_HEADER, Key, KeyRing
from contracts.events import keys_in, owner_of
from webapp.api import middleware
from webapp.api.probes import LIVE, READY
from webapp.domain.errors import UnauthorizedError
from webapp.service.rate_limit import Quota, Unit, account_of

_COUNT = "reranking quota"

OPEN_PATHS = frozenset(
    {
        *LIVE,
        *READY,
        "/healthz",
        *("/", "/version", "/deployment_color", "/metrics", "/v1/cluster/auth"),
        *("/docs", "/openapi.json", "/api-doc/openapi.json"),
    }
)
"""What load balancers ask and what a person reads, by GET: none of it costs a score."""

OPEN_PREFIX = "/docs/"


def is_open(method: str, path: str) -> bool:
    """Whether a route needs no key."""
    path = path.rstrip("/") or "/"
    return method in {"GET", "HEAD", "OPTIONS"} and (path in OPEN_PATHS or path.startswith(OPEN_PREFIX))


def install(app: Flask, keys: KeyRing, quota: Quota) -> None:
    """Ask for a key before every request that is not open, and count it."""

    def check() -> None:
        if is_open(request.method, request.path):
            return
        g.key = None
        if found := keys.find(keys_in(request.headers)):
            g.key, presented = found
            middleware.note(key=g.key.name)
            if keys.guarded:  # else it is the stack's own key, and nobody's request
                g.owner = owner_of(presented)
        # Who has no key is counted too: guessing has its limit as well.
        _count("requests", 1)
        if keys.guarded and g.key is None:
            raise UnauthorizedError("no valid API key; send one as Authorization: Bearer <key>")

    def _count(unit: Unit, cost: int) -> None:
        key: Key | None = g.get("key")
        if key is None:
            quota.take(unit, f"address {account_of(middleware.address())}", cost)
        elif key.name != OWN_NAME:
            most = key.requests_per_minute if unit == "requests" else key.documents_per_minute
            quota.take(unit, f"key {key.name}", cost, most)

    app.before_request(partial(_mark_synthetic, keys))
    if keys.guarded or any(quota.most.values()):
        app.before_request(check)
        app.extensions[_COUNT] = _count


def _mark_synthetic(keys: KeyRing) -> None:
    """Note that our own program tries the service out. It takes our own key: no client can hide its requests."""
    if SYNTHETIC_HEADER in request.headers:
        found = keys.find(keys_in(request.headers))
        g.synthetic = found is not None and found[0].name == OWN_NAME


def count_documents(documents: int) -> None:
    """Count what the current request asks for, before it is worked on.

    Raises:
        RateLimitedError, PayloadTooLargeError: it is too much.
    """
    if count := current_app.extensions.get(_COUNT):
        count("documents", documents)
