"""The memory and cores of this machine or its control groups; calls to the C library that give freed memory back."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from webapp.domain.concurrency import Offload

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")

# From <malloc.h> and <sys/mman.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MADV_DONTNEED = 4

LARGE_BYTES = 4 * 1024 * 1024
"""Blocks of this size are bodies and replies; engines work in smaller ones."""


def memory_bytes() -> int:
    """Return the memory that we may take at most: the machine's, or a control group's limit, whichever is less."""
    limits = [_meminfo("MemTotal")]
    for place in groups():
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            limits.append(int((place / "memory.max").read_text()))
    return min(limits)


def cores() -> float:
    """Return the cores that we may use at most: those we may run on, or a control group's quota, whichever is less."""
    limits = [float(len(os.sched_getaffinity(0)))]
    for place in groups():
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            quota_us, period_us = map(int, (place / "cpu.max").read_text().split())
            limits.append(quota_us / period_us)
    return min(limits)


def free_bytes(*, active_cache: bool = False) -> int:
    """Return the memory that can be had without swapping; page cache that can be dropped counts as free.

    Args:
        active_cache: count cache of a control group that is in use, too, such as a file's that was read just now.
    """
    free = [_meminfo("MemAvailable")]
    for place in groups():
        with contextlib.suppress(OSError, ValueError):
            limit = int((place / "memory.max").read_text())
            used = int((place / "memory.current").read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            cache = int(stat["inactive_file"]) + (int(stat["active_file"]) if active_cache else 0)
            free.append(limit - used + cache)
    return min(free)


def groups() -> Iterator[Path]:
    """Yield the directory of the control group that we are in, and of each above it; version 2."""
    with contextlib.suppress(OSError, StopIteration):
        lines = (_PROC / "self/cgroup").read_text().splitlines()
        group = _CGROUP / next(line[4:] for line in lines if line.startswith("0::/"))
        yield from (place for place in (group, *group.parents) if place.is_relative_to(_CGROUP))


def _meminfo(name: str) -> int:
    lines = dict(line.split(":", 1) for line in (_PROC / "meminfo").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def return_freed_blocks(least_bytes: int = LARGE_BYTES) -> None:
    """Have malloc return blocks of this size and above when they are freed; by default it learns to keep them.

    Does nothing where the C library is not glibc, as `trim` and `forget_pages`.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, least_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, least_bytes)


def trim() -> None:
    """Have malloc return all unused pages, those in the middle of its heaps too. Releases the interpreter's lock."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_pages(path: Path) -> None:
    """Drop this process's pages of a file that is mapped and unchanged; the kernel reads those needed again.

    Compiling a model reads all weights once and copies most of them into a layout of its own.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5] == str(path) and "w" not in fields[1]:  # noqa: PLR2004 - a mapped file's line
                start, end = (int(address, 16) for address in fields[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def trimmer(changes: Callable[[], int], offload: Offload, trim: Callable[[], None] = trim) -> Callable[[], None]:
    """Return a function that returns the memory that large bodies left, if anything changed since its last call.

    Args:
        changes: returns how often the memory charged for large bodies changed.
        offload: runs `trim`, which takes some milliseconds.
        trim: returns the memory.
    """
    seen = changes()

    def step() -> None:
        nonlocal seen
        if (now := changes()) != seen:
            seen = now
            offload(trim)

    return step


_ORDERING = frozenset({"avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni"})
_ORDERING |= {"amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"}


def vector_instructions() -> str:
    """Return which instructions for vectors this processor has: with others a forward pass adds in another order."""
    return " ".join(sorted(_ORDERING & cpu_flags()))


def cpu_flags() -> set[str]:
    """Return the names of this processor's instructions; none if the kernel does not say."""
    with contextlib.suppress(OSError):
        return set((_PROC / "cpuinfo").read_text().split())
    return set()
