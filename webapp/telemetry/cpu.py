"""CPU time of all processes of a service, read from /proc.

A process that has ended left its time with the parent that waited for it, and `reranking serve` waits for orphans. So
the times of a tree of processes, each with that of its dead children, add up to all that the tree ever took.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Process(NamedTuple):
    parent: int
    cpu_s: float
    """Its own time, and that of its children that have ended."""


class CpuTime:
    """Adds up the CPU time of a process and of all its descendants.

    Args:
        root: pid of the process.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._last_s = 0.0

    def seconds(self) -> float:
        """Return the CPU seconds of the tree up to now, of dead processes too; never less than the call before."""
        tree, sum_s = [self._root], 0.0
        for pid in tree:
            # Before its children: one of them that ends just now is missing this time, and never counted twice.
            if process := _read(pid):
                sum_s += process.cpu_s
            tree += _children(pid)
        self._last_s = max(self._last_s, sum_s)
        return self._last_s


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent; 0 where the process has ended."""
    process = _read(pid)
    return process.parent if process else 0


def _children(pid: int) -> Iterator[int]:
    """Yield the children of all threads of a process, zombies included."""
    with contextlib.suppress(OSError):  # it has ended
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (thread / "children").read_bytes().split())


def _read(pid: int) -> _Process | None:
    with contextlib.suppress(OSError):
        # proc(5): after the program's name, which may hold anything; field 3 is the state.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return _Process(int(fields[1]), sum(map(int, fields[11:15])) / _TICKS_PER_S)
    return None
