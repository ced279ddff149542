"""A number of each process, and the sum of all, in a file that they map: no process waits for a lock.

A process that was killed leaves its number behind: each holds a lock on its place in the file, which the kernel
releases when the process ends. A process that finds a place without a lock takes it, or empties it.
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import stat
from pathlib import Path

PLACES = 1024
"""Processes that may count together; one that finds no place counts for itself."""

_NUMBER_BYTES = 8


class SharedSum:
    """This process's part of a sum over all processes that use the same file. Made before the fork, used after it."""

    def __init__(self, path: Path | None = None) -> None:
        """Begin at 0.

        Args:
            path: the file; None: the process counts alone.
        """
        self.own = 0
        """This process's number."""
        self._path = path
        self._pid = 0
        self._place: int | None = None

    def add(self, number: int) -> None:
        """Add to this process's number."""
        self._join()
        self.own += number
        if self._place is not None:
            self._numbers[self._place] += number

    def total(self) -> int:
        """Return the sum of all processes' numbers."""
        self._join()
        return self.own if self._place is None else sum(self._numbers)

    def reset_dead(self) -> None:
        """Set the numbers of processes that ended to 0."""
        self._join()
        if self._place is None:
            return
        for place, number in enumerate(self._numbers):
            if number and place not in self._ours and _lock(self._file, place):
                self._numbers[place] = 0
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _join(self) -> None:
        """Take a place in the file, once in each process."""
        if self._pid == os.getpid():
            return
        self._pid, self.own, self._place = os.getpid(), 0, None
        opened = _opened(self._path, self._pid) if self._path else None
        if opened is None:
            return
        self._file, self._numbers, self._ours = opened
        for place in range(PLACES):
            if place not in self._ours and _lock(self._file, place):
                self._ours.add(place)
                self._numbers[place] = 0
                self._place = place
                return


@functools.cache
def _opened(path: Path, _pid: int) -> tuple[int, memoryview[int], set[int]] | None:
    """Open the file, once in each process: to close it anywhere would release all of the process's locks on it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
        # Its final size, so that no map breaks; and its blocks: on a full disk a write to the map would kill us.
        os.posix_fallocate(file, 0, PLACES * _NUMBER_BYTES)
        return file, memoryview(mmap.mmap(file, PLACES * _NUMBER_BYTES)).cast("q"), set()
    except OSError:  # no state directory, or none with room: the process counts alone
        return None


def _lock(file: int, place: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True
