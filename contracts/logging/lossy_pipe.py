"""A pipe that takes only what it has room for: no program waits for its reader, and lost lines are counted.

supervisord makes such pipes for its programs (`webapp.stack.supervisor.logging`), as it may be stopped, or too slow.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Callable
from typing import Any

from contracts.logging.writer import lost

PIPE_BYTES = 1024 * 1024
"""Room for bytes that are not read yet; the most that Linux allows any user."""


def refuse_when_full(pipe: int) -> None:
    """Make a pipe large, and let its writers, ours or nginx, lose what finds no room."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(OSError):  # the pipes of this user are at their limit
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Lossy(io.FileIO):
    """A descriptor that does not block. Without locks, so that native threads may write, too."""

    def __init__(self, descriptor: int, note: Callable[[str], bytes]) -> None:
        """Begin.

        Args:
            descriptor: where to write.
            note: makes a line, its end included, of a message.
        """
        super().__init__(descriptor, "wb", closefd=False)
        self._note = note
        self._lost = 0
        self._torn = False
        os.register_at_fork(after_in_child=self._forget)  # the parent reports its own

    def write(self, data: Any) -> int:
        """Write lines, or count them as lost."""
        lines = bytes(data)
        if self._lost and self._fits(self._note(lost(self._lost))):
            self._lost = 0
        if self._lost or not self._fits(lines):
            self._lost += lines.count(b"\n")
        return len(lines)

    def _forget(self) -> None:
        self._lost = 0
        self._torn = False

    def _fits(self, lines: bytes) -> bool:
        whole = b"\n" + lines if self._torn else lines
        try:
            written = super().write(whole)
        except OSError:  # its reader has gone
            return False
        if written:  # more than the kernel takes in one piece may be cut
            self._torn = written < len(whole) and whole[written - 1 : written] != b"\n"
        return written == len(whole)
