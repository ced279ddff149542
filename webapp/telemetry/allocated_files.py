"""Files of figures that can be written to whatever the disk holds, or none.

prometheus_client makes its files long and leaves it to the first write to each page to find room. That write goes
through a map, so where there is none, as in a /dev/shm that somebody filled, the kernel answers with SIGBUS, and the
process dies. Here the room is had before, from a call that may fail. Observers may fail; work may not.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Callable
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

FIRST_BYTES = 64 * 1024
"""Of a new file; it doubles when it is full."""


class Figures(MmapedDict):
    """Values by name, in a file; those for which the file has no room, in memory, where only this process sees them.

    Args:
        path: None where there is no file to use.
        complain: hears why values stay in memory; maybe more than once.
    """

    _f: Any
    """The open file; None where all values are in memory."""
    _m: Any

    def __init__(self, path: str | None, complain: Callable[[Exception], None]) -> None:
        self._complain = complain
        self._positions: dict[str, int] = {}
        self._in_memory: dict[str, tuple[float, float]] = {}
        self._f = None
        if path is None:
            return
        try:
            self._open(path)
        # The last three: a file that others damaged. No request may pay for that.
        except (OSError, ValueError, RuntimeError, struct.error) as error:
            self._positions = {}
            self.close()
            complain(error)

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its timestamp; a new one is 0."""
        if self._has(key):
            return super().read_value(key)  # type: ignore[no-untyped-call,no-any-return]
        return self._in_memory[key]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a value and its timestamp."""
        if self._has(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:
            self._in_memory[key] = value, timestamp

    def close(self) -> None:
        """Let go of the file."""
        if self._f:
            self._f.close()
        self._f = self._m = None

    def _open(self, path: str) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
        try:
            # All of it: a file that is there already may have been made by who left this out.
            os.posix_fallocate(file, 0, os.fstat(file).st_size or FIRST_BYTES)
            # By its descriptor: its name may be gone by now, or have become another file's.
            super().__init__(f"/proc/self/fd/{file}")  # type: ignore[no-untyped-call]
        finally:
            os.close(file)

    def _has(self, key: str) -> bool:
        """Whether this value is in the file; a new one gets its room there, if there is any."""
        if key in self._positions:
            return True
        if key in self._in_memory:
            return False
        if self._f:
            try:
                self._grow_for(key)
            except OSError as error:
                self._complain(error)
            else:
                return True
        self._in_memory[key] = 0.0, 0.0
        return False

    def _grow_for(self, key: str) -> None:
        length = len(key.encode())
        end = self._used + 4 + length + (8 - (length + 4) % 8) + 16  # as `_init_value` has it
        capacity = self._capacity
        while end > capacity:
            capacity *= 2
        if capacity > self._capacity:
            file = os.open(f"/proc/self/fd/{self._f.fileno()}", os.O_RDWR | os.O_CLOEXEC)  # ours only appends
            try:
                os.posix_fallocate(file, 0, capacity)
            finally:
                os.close(file)
            self._m = mmap.mmap(self._f.fileno(), capacity)
            self._capacity = capacity
