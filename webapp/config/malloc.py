"""Give freed memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

from webapp.domain.concurrency import Offload

# From <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

LARGE_BYTES = 4 * 1024 * 1024
"""Blocks of this size are bodies and replies; engines work in smaller ones."""


def return_large_blocks() -> None:
    """Have malloc return large blocks the moment they are freed; by default it learns from the first to keep them."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """Have malloc return the pages that nobody uses, in the middle of its heaps, too; nothing where it isn't glibc's.

    Releases the interpreter's lock.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Trimming:
    """Gives back what large bodies left, each time that what is charged for them changed."""

    def __init__(self, changes: Callable[[], int], elsewhere: Offload, trim: Callable[[], None] = trim) -> None:
        """Nothing is given back before the first change.

        Args:
            changes: counts them.
            elsewhere: gives back there, for that takes some milliseconds.
            trim: what gives back.
        """
        self._changes = changes
        self._elsewhere = elsewhere
        self._trim = trim
        self._seen = changes()

    def step(self) -> None:
        """Give back, if anything changed."""
        if (now := self._changes()) != self._seen:
            self._seen = now
            self._elsewhere(self._trim)
