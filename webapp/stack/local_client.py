"""Calls of our own programs to the running service: with its own key, trust in its certificate, and no proxy."""

from __future__ import annotations

import urllib.request
from http.client import HTTPException
from typing import Any

from contracts.api_keys import SYNTHETIC_HEADER, own_key
from webapp.config.settings import Settings
from webapp.stack.tls import trust_own


def ask(settings: Settings, path: str, body: bytes | None = None, *, timeout_s: float) -> Any:
    """Call the service of these settings and return the reply; the call is marked so that no metric counts it.

    The service runs on this machine, so HTTP_PROXY is not for it.

    Raises:
        OSError: it does not answer, or (urllib.error.HTTPError) answers with an error.
    """
    key = own_key(settings.own_key)
    headers = {"X-Api-Key": key, SYNTHETIC_HEADER: "1"} if key else {}
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust_own(settings))
    )
    request = urllib.request.Request(f"{url_of(settings)}{path}", body, headers)
    try:
        return opener.open(request, timeout=timeout_s)
    except HTTPException as error:
        raise ConnectionError(f"the answer is no HTTP ({type(error).__name__})") from error


def host_of(settings: Settings) -> str:
    """Return the address at which this machine reaches the service of these settings."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound


def url_of(settings: Settings) -> str:
    """Return the URL at which this machine reaches the service of these settings."""
    host = host_of(settings)
    scheme = "https" if settings.has_tls else "http"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"
