"""A limit to a worker's memory. Memory is kept flat by design; this is for leaks that are not found yet."""

from __future__ import annotations

import time
from collections.abc import Callable

YOUNGEST_S = 30.0
"""A limit below what a fresh worker takes must not fork workers in a tight loop."""


class MemoryLimit:
    """A limit that asks once for a replacement; `due` is called once a second."""

    def __init__(
        self, limit_bytes: int, rss_bytes: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin in the worker, whose age counts.

        Args:
            limit_bytes: 0: never.
            rss_bytes: resident memory of this process.
            clock: monotonic seconds.
        """
        self._limit_bytes = limit_bytes
        self._rss_bytes = rss_bytes
        self._clock = clock
        self._not_before = clock() + YOUNGEST_S
        self._asked = False

    def due(self) -> int:
        """Return the worker's size in bytes when it is time to replace it, once; else 0."""
        if not self._limit_bytes or self._asked or self._clock() < self._not_before:
            return 0
        size = self._rss_bytes()
        self._asked = size > self._limit_bytes
        return size if self._asked else 0
