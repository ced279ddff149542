"""Locks on open files (flock(2)). The kernel frees a lock when the last descriptor of its holder is closed."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO


def lock(file: int | IO[str], *, wait: bool = False) -> bool:
    """Take the exclusive lock of an open file or directory; return False if another process has it.

    Args:
        file: a descriptor, or a file object.
        wait: wait until the lock is free, without a limit.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of the file at this path; False if there is no such file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
