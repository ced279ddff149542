"""Hand a large reply to nginx as a file, so that a worker's death cannot cut it short.

nginx passes on the head of a reply before it has the body, and after that it can't retry with another worker. A reply
that fits into the socket's buffer is sent in one piece; a larger one would be cut when its worker is killed. So a
worker writes a larger reply to a private file first, and answers with the name of the file (X-Accel-Redirect). The
kernel tells when nginx opened the file (inotify); its name is removed then, and its content goes when nginx closes
it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import time
import uuid
from http import HTTPStatus
from pathlib import Path

from flask import Flask, Response, request

from webapp.api.errors import respond
from webapp.api.routes.rerank import WARNING_HEADER
from webapp.domain.concurrency import Offload
from webapp.domain.errors import UnavailableError

FILE_HEADER = "X-Accel-Redirect"
"""Has nginx send a file of its own in place of this reply's body."""

LARGE_BYTES = 64 * 1024
"""A longer reply goes through a file. A Unix socket takes this much at once, by Linux' defaults twice as much."""

UNOPENED_S = 60.0
"""A file that nginx did not open by then is removed: its caller left."""

LAST_S = 5.0
"""How long a worker that ends waits for nginx to open another of its files."""

_IN_OPEN_ONCE = ctypes.c_uint32(0x80000020)  # IN_ONESHOT | IN_OPEN
_EVENT = struct.Struct("iIII")
"""An event begins with its watch. Only those of a folder are longer, by a name."""
_MOST_READ = 64 * 1024


class ReplyFiles:
    """Files of one worker that wait for nginx. `put` may be called on any thread, other methods on the hub's."""

    COLLECT_S = 0.25
    """Seconds between two calls of `collect`."""

    def __init__(self, folder: Path) -> None:
        """Prepare; `open` does the work.

        Args:
            folder: the files' folder; nginx serves it as the internal location /.reply/.
        """
        self._folder = folder
        self._watching = -1
        self._waiting: dict[int, tuple[Path, float]] = {}

    def open(self) -> None:
        """Begin to watch, and remove the files of dead workers. Call it in the worker, after the fork.

        Raises:
            OSError: the folder can't be made, or the kernel has no watch left for this user.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._watching = _libc("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        for left in self._folder.iterdir():
            writer = left.name.partition("-")[0]
            if writer == str(os.getpid()) or not Path("/proc", writer).exists():
                left.unlink(missing_ok=True)

    @property
    def usable(self) -> bool:
        """Whether `open` succeeded."""
        return self._watching >= 0

    def put(self, body: bytes) -> str:
        """Write a reply; returns the path under which nginx finds it.

        Raises:
            OSError: the disk is full, read-only or gone; nothing is left there.
        """
        name = f"{os.getpid()}-{uuid.uuid4().hex}"
        file = self._folder / name
        try:
            file.touch(0o600, exist_ok=False)
            file.write_bytes(body)
            watch = _libc("inotify_add_watch", self._watching, os.fsencode(file), _IN_OPEN_ONCE)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        self._waiting[watch] = (file, time.monotonic() + UNOPENED_S)
        return f"/.reply/{name}"

    def collect(self) -> None:
        """Remove the files that nginx opened, and those that it did not open in time."""
        if not self._waiting:
            return
        with contextlib.suppress(BlockingIOError):
            for watch, *_ in _EVENT.iter_unpack(os.read(self._watching, _MOST_READ)):
                self._remove(watch)
        now = time.monotonic()
        for watch, (_, until) in list(self._waiting.items()):  # a copy: `put` adds to it on other threads
            if until < now:
                self._remove(watch)

    def close(self) -> None:
        """Give nginx some seconds to open the files that are left, then remove them if the disk can be written."""
        while self._waiting and select.select([self._watching], [], [], LAST_S)[0]:
            self.collect()
        for watch in list(self._waiting):
            self._remove(watch)
        if self.usable:
            os.close(self._watching)
            self._watching = -1

    def _remove(self, watch: int) -> None:
        if watch not in self._waiting:
            return
        file, _ = self._waiting.pop(watch)
        try:
            file.unlink(missing_ok=True)
        except OSError:  # the disk can't be written now
            self._waiting[watch] = file, time.monotonic() + UNOPENED_S


def send_large_as_files(app: Flask, files: ReplyFiles, offload: Offload) -> None:
    """Write the body of a large reply to a POST into a file, and have nginx send that.

    A reply that can't be written to the disk becomes 503: sent in pieces it could be cut short.
    """

    def hand_over(response: Response) -> Response:
        large = (response.content_length or 0) > LARGE_BYTES
        if not large or not files.usable or request.method != "POST" or response.status_code != HTTPStatus.OK:
            return response
        body = response.get_data()
        try:
            path = offload(lambda: files.put(body))
        except BaseException as cause:
            response.close()  # Flask closes only the reply that it sends; this one gives back its memory
            if not isinstance(cause, OSError):
                raise
            error = UnavailableError(f"the reply can't be written to the disk: {cause.strerror}", retry_after_s=10)
            error.__cause__ = cause
            return respond(error)
        response.set_data(b"")
        response.headers[FILE_HEADER] = path
        if warnings := response.headers.getlist(WARNING_HEADER):  # nginx before 1.23 reads only the first line
            response.headers[WARNING_HEADER] = ", ".join(warnings)
        return response

    app.after_request(hand_over)


def _libc(function: str, *arguments: int | bytes | ctypes.c_uint32) -> int:
    """Call a function of the C library that returns -1 and sets errno when it fails."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
