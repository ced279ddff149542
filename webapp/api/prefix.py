"""The path under which a proxy serves us, where it says so: X-Forwarded-Prefix."""

from __future__ import annotations

import re

from flask import request

HEADER = "X-Forwarded-Prefix"

_PREFIX = re.compile(r"((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)/?")
"""Names between single slashes: no other host (`//evil`), no way up, nothing that a page would have to escape."""


def prefix() -> str | None:
    """Return it without a slash at its end, as `/search`; None where it is not said or is no plain path."""
    said = _PREFIX.fullmatch(request.headers.get(HEADER, ""))
    return said[1] if said else None
