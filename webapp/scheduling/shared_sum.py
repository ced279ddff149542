"""One number of each process, and the sum of all: in a file that they map, so that nobody waits for a lock.

A process that was killed takes its number with it: each holds a lock on its place in the file, which the kernel lets go
when the process ends. Whoever finds a place without one takes it, or empties it.
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


class OwnSum:
    """A process that counts alone."""

    def __init__(self) -> None:
        self.own = 0

    def add(self, number: int) -> None:
        """Add to this process's number."""
        self.own += number

    def total(self) -> int:
        """Return the sum of all processes' numbers."""
        return self.own

    def forget_the_dead(self) -> None:
        """Set the numbers of processes that ended to 0."""


class SharedSum(OwnSum):
    """A process that counts together with all that use the same file. Made before the fork, used after it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._pid = 0

    def add(self, number: int) -> None:
        """Add to this process's number."""
        self._join()
        super().add(number)
        if self._place is not None:
            self._numbers[self._place] += number

    def total(self) -> int:
        """Return the sum of all processes' numbers."""
        self._join()
        return self.own if self._place is None else sum(self._numbers)

    def forget_the_dead(self) -> None:
        """Set the numbers of processes that ended to 0."""
        self._join()
        if self._place is None:
            return
        for place, number in enumerate(self._numbers):
            if number and place not in self._ours and _lock(self._file, place):
                self._numbers[place] = 0
                _unlock(self._file, place)

    def _join(self) -> None:
        if self._pid == os.getpid():
            return
        self._pid, self.own, self._place = os.getpid(), 0, None
        opened = _opened(self._path, self._pid)
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
    """Open the file, once a process: to close it anywhere would let go of all of the process's locks on it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
        # Its size for ever, so nobody's map breaks; and its blocks: on a full disk a write to the map would kill us.
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


def _unlock(file: int, place: int) -> None:
    fcntl.lockf(file, fcntl.LOCK_UN, 1, place)
