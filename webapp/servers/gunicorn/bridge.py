"""The bridge between native engine threads and gevent's greenlets; `asyncio_bridge` is its counterpart.

`webapp.domain.concurrency` has what both stand on. Nothing here may be imported by who serves without gevent.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from webapp.domain.concurrency import (
    NativeWaiter,
    Offload,
    SimpleQueue,
    Waiter,
    allocate_lock,
    persistent,
    start_native_thread,
)
from webapp.domain.errors import CancelledError

T = TypeVar("T")

__all__ = [
    "GeventBridge",
    "GeventWaiter",
    "HangUpWatch",
    "NativeWaiter",
    "Offload",
    "SimpleQueue",
    "Waiter",
    "allocate_lock",
    "hung_up",
    "repeat",
    "spawn",
    "start_native_thread",
    "within",
]


class GeventWaiter:
    """A greenlet waits; made and waited for on the hub's thread."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._loop = gevent.get_hub().loop
        self._event = Event()

    def wake(self) -> None:
        """Set the event on the hub's thread, the only one that may touch it."""
        self._loop.run_callback_threadsafe(self._event.set)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; False when `timeout_s` passed first."""
        return bool(self._event.wait(timeout_s))


class GeventOffload:
    """One native thread for work that would hold the hub; its callers, greenlets, wait meanwhile."""

    def __init__(self) -> None:
        self._pool: ThreadPool | None = None

    def __call__(self, run: Callable[[], T]) -> T:
        """Run elsewhere and return the result, or raise what it raised. In a worker only: threads survive no fork."""
        if self._pool is None:
            self._pool = ThreadPool(1)
        result: T = self._pool.apply(run)
        return result


def hung_up(connection: Any) -> bool:
    """Whether the other side of a connection closed it, or its sending half; looks without waiting or reading.

    Data that waits is a pipelined request: its sender is still there.
    """
    # gevent's own recv would wait for data, whatever the flags say; the kernel's socket below it doesn't.
    kernel = getattr(connection, "_sock", connection)
    try:
        return bool(kernel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except OSError:
        return True


class HangUpWatch:
    """While it is entered, `CancelledError` is raised in the greenlet that entered it if the other side hangs up.

    The kernel tells: hundreds of waiting requests cost nothing until one of them is left.
    """

    __slots__ = ("_connection", "_watcher")

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        """Begin to watch; one that hung up already is told at the first wait."""
        self._watcher = gevent.get_hub().loop.io(self._connection.fileno(), 1)  # 1: something to read, or the end
        self._watcher.start(self._look, gevent.getcurrent())
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no longer."""
        self._watcher.stop()
        self._watcher.close()

    def _look(self, waiting: gevent.Greenlet) -> None:
        self._watcher.stop()  # also for a pipelined request, which would be told again and again
        if hung_up(self._connection):
            waiting.throw(CancelledError("the caller hung up"))


def spawn(run: Callable[[], None]) -> None:
    """Run beside the requests, as a greenlet of the calling thread's hub."""
    gevent.spawn(run)


def repeat(interval_s: float, run: Callable[[], None]) -> None:
    """Run again and again, `interval_s` after it ended, as a greenlet of the calling thread's hub."""
    run = persistent(run)

    def forever() -> None:
        while True:
            gevent.sleep(interval_s)
            run()

    gevent.spawn(forever)


def within(seconds: float, run: Callable[[], T]) -> T:
    """Run here, in the calling greenlet; raises TimeoutError when it waits for longer than that."""
    with gevent.Timeout(seconds, TimeoutError(f"took longer than {seconds:g} s")):
        return run()


class GeventBridge:
    """See `webapp.domain.concurrency.Bridge`; a worker's, usable after the fork."""

    def make_waiter(self) -> Waiter:
        """For a greenlet."""
        return GeventWaiter()

    def make_offload(self) -> Offload:
        """A native thread."""
        return GeventOffload()

    def blocking(self, run: Callable[[], T]) -> T:
        """Right here: the sockets of who is patched let others work."""
        return run()

    def within(self, seconds: float, run: Callable[[], T]) -> T:
        """In the calling greenlet."""
        return within(seconds, run)

    def spawn(self, run: Callable[[], None]) -> None:
        """As a greenlet."""
        spawn(run)

    def repeat(self, interval_s: float, run: Callable[[], None]) -> None:
        """In a greenlet."""
        repeat(interval_s, run)

    def watch(self, environ: Mapping[str, Any]) -> AbstractContextManager[object]:
        """Over the connection that gunicorn leaves in the environment."""
        connection = environ.get("gunicorn.socket")
        return nullcontext() if connection is None else HangUpWatch(connection)
