"""A pipe that takes only what it has room for: no program waits for its reader, and what is lost is counted.

supervisord makes the pipes of its programs so (`webapp.stack.supervisor.logging`), for it may be stopped, or too slow.
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
"""Of what was written and is not read yet; as much as Linux lets any user have."""


def refuse_when_full(pipe: int) -> None:
    """Make the writers of a pipe lose what finds no room, be they ours or nginx; and make it large."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(OSError):  # this user's pipes are large enough together
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
        os.register_at_fork(after_in_child=self._forget)  # the parent tells of its own

    def write(self, data: Any) -> int:
        """Write, or count the lines as lost."""
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
