"""Paths that clients make of a base address: `http://host/` + `/rerank`, `http://host/v1` + `/v1/rerank`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_SLASHES = re.compile("/{2,}")

_PREFIX = re.compile("/(?:v1|v2|api|openai)(?=/v[12]/)")
"""A base address that ends in a version or in a gateway's prefix, before the path that a client appends by itself."""


def tidy(path: str) -> str:
    """The path that was meant: `//rerank` is `/rerank`, `/v1/v1/rerank` and `/api/v1/rerank` are `/v1/rerank`."""
    path = _SLASHES.sub("/", path)
    if prefix := _PREFIX.match(path):
        return path[prefix.end() :]
    return path


def tidy_paths(app: WSGIApplication) -> WSGIApplication:
    """Tidy the path of each request before routes are matched."""

    def tidied(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = tidy(environ["PATH_INFO"])
        return app(environ, start_response)

    return tidied


def meant_by(path: str, known: Iterable[str]) -> str | None:
    """The longest known path that this one ends in."""
    path = path.rstrip("/")
    return max((each for each in known if each != "/" and path.endswith(each)), key=len, default=None)
