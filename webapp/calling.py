"""How our own programs call the running service: by its own key, and trusting its own certificate."""

from __future__ import annotations

import urllib.request
from typing import Any

from pusher.keys import SYNTHETIC_HEADER, own_key
from webapp.settings import Settings
from webapp.tls import trust_own


def ask(settings: Settings, path: str, body: bytes | None = None, *, timeout_s: float) -> Any:
    """Call the service of these settings, to see how it is: no figure counts the call.

    Raises:
        OSError: it does not answer, or (urllib.error.HTTPError) answers with an error.
    """
    key = own_key(settings.own_key)
    return urllib.request.urlopen(
        urllib.request.Request(
            f"{url_of(settings)}{path}", body, {"X-Api-Key": key, SYNTHETIC_HEADER: "1"} if key else {}
        ),
        timeout=timeout_s,
        context=trust_own(settings),
    )


def url_of(settings: Settings) -> str:
    """Where the service of these settings listens, as seen from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    scheme = "https" if settings.has_tls else "http"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"
