"""Warnings as headers of a reply, for the formats that have no place for them; the others carry them there as well."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from flask import Response

HEADER = "X-Rerank-Warning"

MOST = 8
"""Warnings of one reply."""

MOST_CHARS = 200
"""Of a warning. nginx takes all headers of a reply together only up to 4 KB."""

_KEPT = " !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"
_BROKEN_ESCAPE = re.compile("%.?$")


def add(response: Response, warnings: Iterable[str]) -> None:
    """Add a header line for each warning; what is no printable ASCII is percent-encoded."""
    for warning in list(dict.fromkeys(warnings))[:MOST]:
        value = _BROKEN_ESCAPE.sub("", quote(warning[:MOST_CHARS], safe=_KEPT)[:MOST_CHARS])
        response.headers.add(HEADER, value)


def join(response: Response) -> None:
    """Make one header line of all warnings; nginx before 1.23 sees only the first line of several."""
    if warnings := response.headers.getlist(HEADER):
        response.headers[HEADER] = ", ".join(warnings)
