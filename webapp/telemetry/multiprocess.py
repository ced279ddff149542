"""The folder in which processes leave their figures for the exporter. Imports nothing heavy.

One a service (and release slot), on tmpfs where there is one: every count is a write to a mapped file, and a busy disk
would hold requests up.

Files are named after slots and not after processes. A process holds a slot's lock while it lives; the next process
that takes the slot goes on counting in its files. So there are as many files as processes that lived at the same time,
and no file is ever merged into another, which could count twice or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from webapp.domain.errors import SetupError

log = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client looks at it when it is imported; supervisor sets it for the webapp."""

ALONE = -1
"""The slot of a process that finds none; it counts in its memory."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - anyone may write there, see `folder` # nosec B108


def folder(state_dir: Path, color: str = "") -> Path:
    """Make the folder for this user alone, and return it.

    Raises:
        SetupError: it can't be made anywhere.
    """
    digest = hashlib.sha256(f"{state_dir}\0{color}".encode()).hexdigest()[:12]
    for path in (SHARED_MEMORY / f"reranking-{os.getuid()}-{digest}", state_dir / "run" / f"metrics{color}"):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
        except OSError:
            continue
        # Whoever made it before us may have made a link, or may read along.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return path
    raise SetupError(f"RERANK_STATE_DIR: {state_dir / 'run'} can't hold a folder for metrics; choose another")


_FLOCK = "hhqqi4x"
"""`struct flock` of Linux: type, whence, start, length, pid."""


@dataclass(slots=True)
class _Held:
    """The slot of this process."""

    pid: int = 0
    """The process that took the slot; its child takes another."""
    number: int = 0
    lock: TextIO | None = None
    """POSIX locks are no child's, and go with the process, however it dies."""
    complained: int = 0
    """The process that told of figures that are missing."""


_held = _Held()


def use_slots() -> None:
    """Have metrics that this process makes from now on write to the files of its slot."""
    if VARIABLE not in os.environ or _held.pid:
        return
    from prometheus_client import values  # noqa: PLC0415 - the stack needs none of it

    from webapp.telemetry.allocated_files import Figures  # noqa: PLC0415 - as above

    def figures(path: str) -> Figures:
        return Figures(None if slot() == ALONE else path, _complain)

    values.MmapedDict = figures  # type: ignore[attr-defined,assignment]
    values.ValueClass = values.MultiProcessValue(slot)  # type: ignore[no-untyped-call]


def slot() -> int:
    """Return the number of this process' slot; takes one where it has none, and may get `ALONE`."""
    if _held.pid != os.getpid():
        try:
            _take(Path(os.environ[VARIABLE]))
        except OSError as error:  # no room for another file, or no folder
            _held.pid, _held.number, _held.lock = os.getpid(), ALONE, None
            _complain(error)
    return _held.number


def _take(folder: Path) -> None:
    for number in itertools.count():
        if lock := _locked(folder / f"slot-{number}.lock"):
            _forget_levels(folder, number)
            _held.pid, _held.number, _held.lock = os.getpid(), number, lock
            return


def _complain(error: Exception) -> None:
    """Tell once that figures of this process are missing."""
    if _held.complained != os.getpid():
        _held.complained = os.getpid()
        log.warning("metrics can't be kept: %s; /metrics misses some of this process, requests go on", error)


def _locked(path: Path) -> TextIO | None:
    """Return the lock of a slot, closed by whoever is done with it; None where a process that lives has it."""
    lock = path.open("w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of them, POSIX leaves open
        lock.close()
        return None
    return lock


def lives(folder: Path, number: int) -> bool:
    """Return whether a process has this slot. Asks and locks nothing, so that it is in no taker's way."""
    if (_held.pid, _held.number) == (os.getpid(), number):
        return True
    try:
        with (folder / f"slot-{number}.lock").open("rb") as lock:  # to close it lets go of nothing: it is not ours
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return False
    except OSError:  # a file system that can't tell
        return True
    return bool(found[0] != fcntl.F_UNLCK)


def levels_of(path: Path) -> int | None:
    """Return the slot whose levels this file holds; None where it holds counts."""
    kind, _, rest = path.stem.partition("_")
    number = rest.rpartition("_")[2]
    return int(number) if kind == "gauge" and number.isdecimal() else None


def _forget_levels(folder: Path, number: int) -> None:
    for file in folder.glob(f"gauge_*_{number}.db"):
        file.unlink(missing_ok=True)


def forget(path: Path) -> None:
    """A stack starts: forget what the last one counted."""
    for file in path.glob("*.db"):
        file.unlink(missing_ok=True)


def bury() -> None:
    """Forget the levels of processes that died, however they did; their counts stay. In the master."""
    folder = Path(os.environ.get(VARIABLE, "/nowhere"))
    for path in folder.glob("slot-*.lock"):
        number = int(path.stem.removeprefix("slot-"))
        if (_held.pid, _held.number) == (os.getpid(), number):
            continue  # its lock would go when it is closed here
        # The exporter leaves out what can't be removed here; the master must not end for it.
        with contextlib.suppress(OSError):
            if lock := _locked(path):
                with lock:
                    _forget_levels(folder, number)
