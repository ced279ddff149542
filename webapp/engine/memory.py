"""Keeping a worker small: two calls to the C library. Both do nothing where it isn't glibc on Linux."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

# From <malloc.h> and <sys/mman.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MADV_DONTNEED = 4

_THRESHOLD_BYTES = 64 * 1024


def give_back_freed_memory() -> None:
    """Let malloc return what is freed instead of keeping it for later.

    Compiling a model and meeting new shapes frees many large blocks; 50 MB a worker (measured) stay otherwise.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)


def forget_pages(path: Path) -> None:
    """Drop this process's pages of a file that is mapped and unchanged; those still needed come back by themselves.

    Compiling reads all weights once and copies most of them into a layout of its own.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5] == str(path) and "w" not in fields[1]:  # noqa: PLR2004 - a mapped file's line
                start, end = (int(address, 16) for address in fields[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
