"""Write lines from a thread, so that a reader or a disk that stops holds nothing up.

A terminal that was stopped with Ctrl-S, a container's log driver that hangs, a stalled disk: a write to one of them may
last for ever. A program that logs goes on at once. Lines that find no room are counted, and the count is written when
lines flow again.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

MOST_WAITING_BYTES = 8 * 1024 * 1024
"""Bytes that wait for one file or stream: some 16,000 lines, seconds of a busy service."""

END_TIMEOUT_S = 2.0
"""Longest time without progress at the end of a process; then what still waits is lost."""

WARN_EVERY_S = 60.0

TOGETHER_S = 0.02
"""Time after a write in which lines are collected: to wake up for each would cost more than to write it."""

_CLOSED = -1

_NAMES = {1: "stdout", 2: "stderr"}


def lost(lines: int) -> str:
    """Return the message that stands where lines were dropped."""
    return f"{lines} {'line was' if lines == 1 else 'lines were'} dropped: nothing took them in time"


class Sink(Protocol):
    """Where a `Writer` writes; each method may wait or fail."""

    name: str
    most_bytes: int
    """Lines are put together up to this size."""

    def begin(self) -> None:
        """Get ready for some whole lines."""

    def write(self, data: bytes) -> int:
        """Write the beginning of these bytes; returns how many."""


class Stream:
    """A descriptor that other processes may hold, too, such as stdout."""

    most_bytes = select.PIPE_BUF  # written in one piece, so that lines of others come between ours, not within

    def __init__(self, descriptor: int) -> None:
        self.name = _NAMES.get(descriptor, f"descriptor {descriptor}")
        self._descriptor = descriptor

    def begin(self) -> None:
        """Do nothing; it is open."""

    def write(self, data: bytes) -> int:
        """See Sink."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process that holds it made it so
            room = select.poll()
            room.register(self._descriptor, select.POLLOUT)
            room.poll()
            return 0


class File:
    """A log file. When it has grown to its limit it is renamed, and another is begun."""

    most_bytes = 64 * 1024

    def __init__(self, path: str, *, limit_bytes: int = 0, backups: int = 0) -> None:
        self.name = path
        self._limit_bytes = limit_bytes
        self._backups = backups
        self._descriptor = _CLOSED

    def begin(self) -> None:
        """See Sink."""
        if self._descriptor == _CLOSED:
            self._open()
        if self._limit_bytes and os.fstat(self._descriptor).st_size >= self._limit_bytes:
            self.close()
            if not self._backups:
                os.truncate(self.name, 0)
            for number in range(self._backups, 0, -1):
                newer = f"{self.name}.{number - 1}" if number > 1 else self.name
                with contextlib.suppress(FileNotFoundError):
                    Path(newer).replace(f"{self.name}.{number}")
            self._open()

    def write(self, data: bytes) -> int:
        """Write whole lines where the disk becomes full; see Sink."""
        before = os.fstat(self._descriptor).st_size
        written = os.write(self._descriptor, data)
        if written < len(data):
            written = data.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._descriptor, before + written)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def close(self) -> None:
        """Close it; the next lines go into the file that has the name then."""
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove what was written."""
        self.close()
        Path(self.name).unlink(missing_ok=True)

    def _open(self) -> None:
        self._descriptor = os.open(self.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


class Complaint:
    """Warns on stderr of a log that can't be written, at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = clock()

    def __call__(self, log: str, error: OSError) -> None:
        """Warn of it."""
        if self._clock() >= self._next_at:
            self._next_at = self._clock() + WARN_EVERY_S
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"{log} can't be written ({error}): lines are lost, the service goes on\n")
                sys.stderr.flush()


class Writer:
    """Writes lines to a sink, in their order, from a thread of its own."""

    def __init__(
        self,
        sink: Sink,
        note: Callable[[str], bytes],
        *,
        failed: Callable[[str, OSError], object] = lambda _name, _error: None,
        most_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        """Begin.

        Args:
            sink: where to write.
            note: makes a line, its end included, of a message.
            failed: called in the thread, with the sink's name and the error of a write.
            most_bytes: most that waits.
        """
        self._sink = sink
        self._note = note
        self._failed = failed
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes | Callable[[], None]] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._failing = False
        """The last write failed; the count is tried again before the next line."""
        self._torn = False
        """A part of a line was written."""
        self._at_work = False
        self._steps = 0
        self._thread: threading.Thread | None = None

    def put(self, lines: bytes) -> None:
        """Have whole lines written, or count them as dropped where too much waits."""
        with self._changed:
            # Once lines are dropped, half of the room has to be free: a slow reader gets no count after each line.
            most = self._most_bytes // 2 if self._lost and not self._failing else self._most_bytes
            if self._waiting_bytes and self._waiting_bytes + len(lines) > most:
                self._lost += lines.count(b"\n")
                return
            if self._owes_a_note():
                self._add(self._take_note())
            self._add(lines)

    def do(self, action: Callable[[], None]) -> None:
        """Have something done to the sink between two lines."""
        with self._changed:
            self._add(action)

    def close(self, timeout_s: float) -> bool:
        """Wait until all is written; returns whether it is.

        Args:
            timeout_s: longest time without progress.
        """
        with self._changed:
            while self._waiting or self._at_work or self._owes_a_note():
                before = self._steps
                if not self._changed.wait(timeout_s) and self._steps == before:
                    return False
        return True

    def _add(self, item: bytes | Callable[[], None]) -> None:
        self._waiting.append(item)
        self._waiting_bytes += len(item) if isinstance(item, bytes) else 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name=f"writes {self._sink.name}")
            self._thread.start()
        elif not self._at_work:
            self._changed.notify_all()

    def _owes_a_note(self) -> bool:
        return self._lost > 0 and not self._failing

    def _take_note(self) -> bytes:
        count, self._lost = self._lost, 0
        return self._note(lost(count))

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the main thread
        while True:
            with self._changed:
                self._at_work = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._owes_a_note())
                self._at_work = True
            while item := self._next():
                if isinstance(item, bytes):
                    self._write(item)
                else:
                    with self._reporting():
                        item()
            time.sleep(TOGETHER_S)

    def _next(self) -> bytes | Callable[[], None] | None:
        """Take an action, or as many lines as go together."""
        with self._changed:
            self._steps += 1
            if self._waiting:
                return self._take_lines()
            return self._take_note() if self._owes_a_note() else None

    def _take_lines(self) -> bytes | Callable[[], None]:
        item = self._waiting.popleft()
        if not isinstance(item, bytes):
            return item
        lines, size = [item], len(item)
        while self._waiting and isinstance(item := self._waiting[0], bytes):
            size += len(item)
            if size > self._sink.most_bytes:
                break
            lines.append(item)
            self._waiting.popleft()
        piece = b"".join(lines)
        self._waiting_bytes -= len(piece)
        return piece

    def _write(self, lines: bytes) -> None:
        with self._changed:
            owed = self._lost if self._failing else 0
        lost_again = self._send(self._note(lost(owed))) if owed else 0
        unsent = lines.count(b"\n") if lost_again else self._send(lines)
        with self._changed:
            self._lost += unsent - (0 if lost_again else owed)
            self._failing = bool(lost_again or unsent)

    def _send(self, lines: bytes) -> int:
        """Write whole lines; returns how many of them could not be written."""
        rest = whole = b"\n" + lines if self._torn else lines
        with self._reporting():
            self._sink.begin()
            while rest:
                rest = rest[self._sink.write(rest) :]
        written = whole[: len(whole) - len(rest)]
        if written:
            self._torn = not written.endswith(b"\n")
        return min(rest.count(b"\n"), lines.count(b"\n"))

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed(self._sink.name, error)


def close(writers: Iterable[Writer]) -> None:
    """Wait until all is written; where one does not move, no longer for the others."""
    timeout_s = END_TIMEOUT_S
    for writer in writers:
        timeout_s = timeout_s if writer.close(timeout_s) else 0


class _Behind(io.FileIO):
    """A standard stream whose lines a `Writer` writes."""

    def __init__(self, descriptor: int, writer: Writer) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._writer = writer

    def write(self, data: Any) -> int:
        """Hand lines to the writer."""
        self._writer.put(bytes(data))
        return len(data)


def never_wait(note: Callable[[str], bytes], *names: str) -> None:
    """Have standard streams of this process written from threads; its end waits for them while they move.

    Args:
        note: makes a line, its end included, of a message.
        names: stdout, stderr.
    """
    while True:  # one that is closed would become whatever is opened next, and be written into
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:  # noqa: PLR2004 - stderr
            os.close(descriptor)
            break
        os.set_inheritable(descriptor, True)
    writers = {name: Writer(Stream(descriptor), note) for descriptor, name in _NAMES.items() if name in names}
    for descriptor, name in _NAMES.items():
        if name in writers:
            setattr(sys, name, io.TextIOWrapper(_Behind(descriptor, writers[name]), line_buffering=True))
    atexit.register(close, writers.values())
