"""How loud an access line is, by what was answered. PURE."""

from __future__ import annotations

import logging

HUNG_UP = 499
"""nginx' number for a client that left before it was answered."""

FAILED_DEPENDENCY = 424
"""What text-embeddings-inference answers where its engine fails."""

UNAVAILABLE = 503


def level_of(status: int, *, comes_later: bool) -> int:
    """The `logging` level of the access line of an answer. nginx' own lines follow the same rule (http.conf.j2).

    Args:
        status: of the answer.
        comes_later: it has `Retry-After`, so that a 503 is a refusal that was meant.
    """
    if status < 400 or status == HUNG_UP:  # noqa: PLR2004 - HTTP's own classes
        return logging.INFO
    if status >= 500 and not (status == UNAVAILABLE and comes_later):  # noqa: PLR2004
        return logging.ERROR
    return logging.ERROR if status == FAILED_DEPENDENCY else logging.WARNING
