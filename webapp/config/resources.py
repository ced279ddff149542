"""The memory of this machine, or of the control groups that we are in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def memory_bytes() -> int:
    """Return the memory that we may take at most: the machine's, or a control group's limit, whichever is less."""
    limits = [_meminfo("MemTotal")]
    for place in groups():
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            limits.append(int((place / "memory.max").read_text()))
    return min(limits)


def free_bytes() -> int:
    """Return the memory that can be had without swapping; page cache that can be dropped counts as free."""
    free = [_meminfo("MemAvailable")]
    for place in groups():
        with contextlib.suppress(OSError, ValueError):
            limit = int((place / "memory.max").read_text())
            used = int((place / "memory.current").read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            free.append(limit - used + int(stat["inactive_file"]))
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
