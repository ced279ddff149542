"""Access: API keys, in any header where a client puts one, and the quota of each caller.

A route needs a key unless it is listed here as open, so a new one is safe from the start.
"""

from __future__ import annotations

from functools import partial

from flask import Flask, current_app, request

from contracts.api_keys import OWN_NAME, SYNTHETIC_HEADER, KeyRing
from contracts.events import keys_in, owner_of
from webapp.api.current_request import address, current
from webapp.api.probes import LIVE, READY
from webapp.domain.errors import UnauthorizedError
from webapp.service.rate_limit import Quota, Unit, account_of

_QUOTA = "reranking quota"

OPEN_PATHS = frozenset(
    {
        *LIVE,
        *READY,
        *("/", "/healthz", "/version", "/deployment_color", "/metrics", "/v1/cluster/auth"),
        *("/docs", "/openapi.json", "/api-doc/openapi.json"),
    }
)
"""Probes of load balancers and pages for people, by GET: none of them costs a score."""

OPEN_PREFIX = "/docs/"


def is_open(method: str, path: str) -> bool:
    """Return whether a route needs no key."""
    path = path.rstrip("/") or "/"
    return method in {"GET", "HEAD", "OPTIONS"} and (path in OPEN_PATHS or path.startswith(OPEN_PREFIX))


def install(app: Flask, keys: KeyRing, quota: Quota) -> None:
    """Require a key for every request that is not open, and count the request."""

    def check() -> None:
        if is_open(request.method, request.path):
            return
        state = current()
        if found := keys.find(keys_in(request.headers)):
            state.key, presented = found
            state.facts["key"] = state.key.name
            if keys.guarded:  # else it is the stack's own key, which has no owner
                state.owner = owner_of(presented)
        # A request without a key is counted too: it limits guessing.
        count("requests", 1)
        if keys.guarded and state.key is None:
            raise UnauthorizedError("no valid API key; send one as Authorization: Bearer <key>")

    app.before_request(partial(_mark_synthetic, keys))
    if keys.guarded or any(quota.most.values()):
        app.before_request(check)
        app.extensions[_QUOTA] = quota


def _mark_synthetic(keys: KeyRing) -> None:
    """Note that the request is a test by our own program. It needs our own key: no client can hide its requests."""
    if SYNTHETIC_HEADER in request.headers:
        found = keys.find(keys_in(request.headers))
        current().synthetic = found is not None and found[0].name == OWN_NAME


def count(unit: Unit, cost: int) -> None:
    """Count what the current request costs, before it is worked on.

    Raises:
        RateLimitedError, PayloadTooLargeError: it is too much.
    """
    quota: Quota | None = current_app.extensions.get(_QUOTA)
    if quota is None:
        return
    key = current().key
    if key is None:
        quota.take(unit, f"address {account_of(address())}", cost)
    elif key.name != OWN_NAME:
        most = key.requests_per_minute if unit == "requests" else key.documents_per_minute
        quota.take(unit, f"key {key.name}", cost, most)
