"""The bridge between native engine threads and gevent's greenlets; `servers.ray.bridge` is its counterpart."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from webapp.domain.concurrency import Offload, Waiter, persistent
from webapp.domain.errors import CancelledError

T = TypeVar("T")


class GeventWaiter:
    """A waiter for a greenlet; made and waited for on the hub's thread."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._loop = gevent.get_hub().loop
        self._event = Event()

    def wake(self) -> None:
        """Set the event on the hub's thread, the only one that may touch it."""
        self._loop.run_callback_threadsafe(self._event.set)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; return False when `timeout_s` passed first."""
        return bool(self._event.wait(timeout_s))


class GeventOffload:
    """One native thread for work that would hold the hub; its callers, greenlets, wait meanwhile."""

    def __init__(self) -> None:
        self._pool: ThreadPool | None = None

    def __call__(self, run: Callable[[], T]) -> T:
        """Run on the thread; return or raise what `run` does. In a worker only: threads survive no fork."""
        if self._pool is None:
            self._pool = ThreadPool(1)
        result: T = self._pool.apply(run)
        return result


def hung_up(connection: Any) -> bool:
    """Return whether the other side closed a connection, or its sending half; neither waits nor reads.

    Data that waits is a pipelined request: its sender is still there.
    """
    # gevent's own recv would wait for data, whatever the flags say; the kernel's socket below it doesn't. Not needed
    # once gevent's recv honours MSG_DONTWAIT.
    kernel = getattr(connection, "_sock", connection)
    try:
        return bool(kernel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except OSError:
        return True


class HangUpWatch:
    """A context that raises `CancelledError` in the greenlet that entered it if the other side hangs up.

    The kernel notices it: hundreds of waiting requests cost nothing until one of them hangs up.
    """

    __slots__ = ("_connection", "_watcher")

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        """Begin to watch; a connection that is closed already raises at the first wait."""
        self._watcher = gevent.get_hub().loop.io(self._connection.fileno(), 1)  # 1: something to read, or the end
        self._watcher.start(self._look, gevent.getcurrent())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._watcher.stop()
        self._watcher.close()

    def _look(self, waiting: gevent.Greenlet) -> None:
        self._watcher.stop()  # also for a pipelined request, which would call us again and again
        if hung_up(self._connection):
            waiting.throw(CancelledError("the caller hung up"))


class GeventBridge:
    """A `webapp.domain.concurrency.Bridge` of a worker, usable after the fork."""

    def make_waiter(self) -> Waiter:
        """Return a waiter for a greenlet."""
        return GeventWaiter()

    def make_offload(self) -> Offload:
        """Return an offload with a native thread of its own."""
        return GeventOffload()

    def within(self, seconds: float, run: Callable[[], T]) -> T:
        """Run in the calling greenlet: patched sockets let others work. Raises TimeoutError after `seconds`."""
        with gevent.Timeout(seconds, TimeoutError(f"took longer than {seconds:g} s")):
            return run()

    def spawn(self, run: Callable[[], None]) -> None:
        """Run in a greenlet of its own."""
        gevent.spawn(run)

    def repeat(self, interval_s: float, run: Callable[[], None]) -> None:
        """Run again and again in a greenlet of its own, `interval_s` after it ended."""
        run = persistent(run)

        def forever() -> None:
            while True:
                gevent.sleep(interval_s)
                run()

        gevent.spawn(forever)

    def watch(self, environ: Mapping[str, Any]) -> AbstractContextManager[object]:
        """Watch the connection that gunicorn leaves in the environment."""
        connection = environ.get("gunicorn.socket")
        return nullcontext() if connection is None else HangUpWatch(connection)
