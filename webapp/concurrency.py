"""The bridge between native engine threads and whoever waits for them; the only file that knows both sides.

Engine threads are native: they touch no gevent API and no patched lock. gevent's monkey patch replaces `threading`
and `_thread`, so what they need is fetched here unpatched. A waiter's `wake` may be called from any native thread.
`queue.Queue` would lose wake-ups here once patched (native put, greenlet get); the C class `_queue.SimpleQueue`
is never patched and serves native threads that wait for native threads or for the hub.
"""

from __future__ import annotations

import socket
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.threadpool import ThreadPool

from webapp.errors import CancelledError

T = TypeVar("T")

allocate_lock = monkey.get_original("_thread", "allocate_lock")
start_native_thread = monkey.get_original("_thread", "start_new_thread")

__all__ = [
    "Elsewhere",
    "GeventWaiter",
    "HangUpWatch",
    "NativeWaiter",
    "Offload",
    "SimpleQueue",
    "Waiter",
    "allocate_lock",
    "here",
    "hung_up",
    "repeat",
    "spawn",
    "start_native_thread",
    "within",
]


class Waiter(Protocol):
    """One caller that sleeps until an engine thread is done with its request."""

    def wake(self) -> None:
        """Let `wait` return True. Callable from any native thread, once or more."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; False when `timeout_s` passed first."""


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


class NativeWaiter:
    """A native thread waits: command line, tests, an engine's own warm-up."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Release the lock that `wait` is blocked on."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; False when `timeout_s` passed first."""
        return bool(self._lock.acquire(timeout=timeout_s))


class Elsewhere(Protocol):
    """Runs what would hold the hub on another thread."""

    def __call__(self, run: Callable[[], Any]) -> Any:
        """Wait for the result, let others work meanwhile."""


def here(run: Callable[[], T]) -> T:
    """The `Elsewhere` of who has no hub to hold."""
    return run()


class Offload:
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

    def forever() -> None:
        while True:
            gevent.sleep(interval_s)
            run()

    gevent.spawn(forever)


def within(seconds: float, run: Callable[[], T]) -> T:
    """Run here, in the calling greenlet; raises TimeoutError when it waits for longer than that."""
    with gevent.Timeout(seconds, TimeoutError(f"took longer than {seconds:g} s")):
        return run()
