"""The files in which processes leave their metrics for the exporter. Loads prometheus_client where it is used.

They lie in one folder a service (and release slot), on tmpfs where there is one: each count is a write to a mapped
file, and a busy disk would hold requests up.

Files are named after slots, not after processes. A process holds a slot's lock while it lives; the next process that
takes the slot goes on counting in its files. So there are as many files as processes that lived at the same time, and
no file is ever merged into another, which could count twice or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import mmap
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from webapp.domain.errors import SetupError

log = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client looks at it when it is imported; supervisor sets it for the webapp."""

NO_SLOT = -1
"""The slot of a process that finds none; it counts in its memory."""

FIRST_BYTES = 64 * 1024
"""Size of a new file; it doubles when it is full."""

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
        # Another user may have made it before us: as a link, or readable.
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
    warned: int = 0
    """The process that logged that some of its metrics are missing."""


_held = _Held()


def use_slots() -> None:
    """Have metrics that this process makes from now on write to the files of its slot."""
    if VARIABLE not in os.environ or _held.pid:
        return
    from prometheus_client import values  # noqa: PLC0415 - the stack needs none of it

    def open_file(path: str) -> AllocatedFile:
        return AllocatedFile(None if slot() == NO_SLOT else path, _warn)

    values.MmapedDict = open_file  # type: ignore[attr-defined,assignment]
    values.ValueClass = values.MultiProcessValue(slot)  # type: ignore[no-untyped-call]


def slot() -> int:
    """Return the number of this process's slot; take one where it has none. `NO_SLOT` where none can be taken."""
    if _held.pid != os.getpid():
        try:
            _take(Path(os.environ[VARIABLE]))
        except OSError as error:  # no room for another file, or no folder
            _held.pid, _held.number, _held.lock = os.getpid(), NO_SLOT, None
            _warn(error)
    return _held.number


def _take(folder: Path) -> None:
    for number in itertools.count():
        if lock := _locked(folder / f"slot-{number}.lock"):
            for levels in folder.glob(f"gauge_*_{number}.db"):  # of the process that had it before
                levels.unlink(missing_ok=True)
            _held.pid, _held.number, _held.lock = os.getpid(), number, lock
            return


def _warn(error: Exception) -> None:
    """Log once that some metrics of this process are missing."""
    if _held.warned != os.getpid():
        _held.warned = os.getpid()
        log.warning("metrics can't be kept: %s; /metrics misses some of this process, requests go on", error)


def _locked(path: Path) -> TextIO | None:
    """Return the lock of a slot, for the caller to close; None where a living process holds it."""
    lock = path.open("w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of them, POSIX leaves open
        lock.close()
        return None
    return lock


def has_dead_levels(path: Path) -> bool:
    """Return whether a file holds levels of a process that died; counts stay when their process dies.

    It asks for the slot's lock and takes none, so it hinders no other process. Not for a process that holds a slot: to
    close the lock's file would free it.
    """
    kind, _, rest = path.stem.partition("_")
    if kind != "gauge":
        return False
    try:
        with path.with_name(f"slot-{rest.rpartition('_')[2]}.lock").open("rb") as lock:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return True
    except OSError:  # a file system without such locks
        return False
    return bool(found[0] == fcntl.F_UNLCK)


def clear(path: Path) -> None:
    """Remove all that was counted; a stack starts."""
    for file in path.glob("*.db"):
        file.unlink(missing_ok=True)


class AllocatedFile:
    """Values by name in a file of prometheus_client, with room that is allocated before it is written to.

    The library makes its files long and leaves it to the first write to each page to find room. That write goes through
    a map, so where there is no room, as in a full /dev/shm, the kernel answers with SIGBUS, and the process dies. Here
    the room comes from a call that may fail. Values without room stay in memory, where only this process sees them.

    Args:
        path: None where there is no file to use.
        warn: called with why values stay in memory; maybe more than once.
    """

    def __init__(self, path: str | None, warn: Callable[[Exception], None]) -> None:
        self._warn = warn
        self._in_memory: dict[str, tuple[float, float]] = {}
        self._file: Any = None
        """The library's MmapedDict; None where all values are in memory."""
        if path is None:
            return
        try:
            self._file = _open_allocated(path)
        # The last three: a file that others damaged. No request may pay for that.
        except (OSError, ValueError, RuntimeError, struct.error) as error:
            warn(error)

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its timestamp; a new one is 0."""
        found: tuple[float, float] = self._file.read_value(key) if self._has(key) else self._in_memory[key]
        return found

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a value and its timestamp."""
        if self._has(key):
            self._file.write_value(key, value, timestamp)
        else:
            self._in_memory[key] = value, timestamp

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _has(self, key: str) -> bool:
        """Return whether this value is in the file; a new one gets its room there, if there is any."""
        if key in self._in_memory:
            return False
        if self._file is not None:
            try:
                _make_room(self._file, key)
            except OSError as error:
                self._warn(error)
            else:
                return True
        self._in_memory[key] = 0.0, 0.0
        return False


def _open_allocated(path: str) -> Any:
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415 - as above

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    try:
        # All of it: a file that is there already may have been made by a process without this class.
        os.posix_fallocate(file, 0, os.fstat(file).st_size or FIRST_BYTES)
        # By its descriptor: its name may be gone by now, or have become another file's.
        return MmapedDict(f"/proc/self/fd/{file}")  # type: ignore[no-untyped-call]
    finally:
        os.close(file)


def _make_room(file: Any, key: str) -> None:
    """Make a file of the library large enough for a value.

    Raises:
        OSError: there is no room.
    """
    if key in file._positions:
        return
    length = len(key.encode())
    end = file._used + 4 + length + (8 - (length + 4) % 8) + 16  # as the library's `_init_value` has it
    capacity = file._capacity
    while end > capacity:
        capacity *= 2
    if capacity > file._capacity:
        descriptor = os.open(f"/proc/self/fd/{file._f.fileno()}", os.O_RDWR | os.O_CLOEXEC)  # `_f` only appends
        try:
            os.posix_fallocate(descriptor, 0, capacity)
        finally:
            os.close(descriptor)
        file._m = mmap.mmap(file._f.fileno(), capacity)
        file._capacity = capacity
