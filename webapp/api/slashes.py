"""`http://host/` + `/rerank` is how clients make `//rerank`: the same path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_SLASHES = re.compile("/{2,}")


def single_slashes(app: WSGIApplication) -> WSGIApplication:
    """Merge slashes before routes are matched."""

    def merged(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if "//" in environ["PATH_INFO"]:
            environ["PATH_INFO"] = _SLASHES.sub("/", environ["PATH_INFO"])
        return app(environ, start_response)

    return merged
