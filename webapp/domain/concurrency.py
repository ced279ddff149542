"""How native engine threads and whoever waits for them meet; what every bridge between them has. Knows none of them.

Engine threads are native: they touch no event loop and no patched lock. gevent's monkey patch replaces `threading` and
`_thread`, so what they need is fetched here unpatched. A waiter's `wake` may be called from any native thread.
`queue.Queue` would lose wake-ups here once patched (native put, greenlet get); the C class `_queue.SimpleQueue`
is never patched and serves native threads that wait for native threads or for the hub.
"""

from __future__ import annotations

import _thread  # noqa: F401 - `original` finds it
import logging
import sys
from _queue import SimpleQueue
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

MANY_CHARS = 256 * 1024
"""To hash or to write so many characters takes a millisecond: more than these is done `Offload`."""

LONG_CHARS = 1_000_000
"""To copy, encode or unpickle so many characters takes a few milliseconds: longer texts go in pieces of so many."""

__all__ = [
    "LONG_CHARS",
    "MANY_CHARS",
    "Bridge",
    "NativeWaiter",
    "Offload",
    "SimpleQueue",
    "Waiter",
    "allocate_lock",
    "original",
    "persistent",
    "run_inline",
    "start_native_thread",
]


def original(module: str, name: str) -> Any:
    """Return what a module of Python's has under a name, as it was before gevent patched it, if that was imported."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(sys.modules[module], name) if monkey is None else monkey.get_original(module, name)


allocate_lock = original("_thread", "allocate_lock")
start_native_thread = original("_thread", "start_new_thread")


class Waiter(Protocol):
    """One caller that sleeps until an engine thread is done with its request."""

    def wake(self) -> None:
        """Let `wait` return True. Callable from any native thread, once or more."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; False when `timeout_s` passed first."""


class Offload(Protocol):
    """Runs what would hold the hub on another thread."""

    def __call__(self, run: Callable[[], Any]) -> Any:
        """Wait for the result, let others work meanwhile."""


class Bridge(Protocol):
    """What the composition root needs of whatever runs the requests: gevent's hub, or asyncio's loop."""

    def make_waiter(self) -> Waiter:
        """For one caller, made and waited for on the hub's thread."""

    def make_offload(self) -> Offload:
        """For computing; it is first called after the fork."""

    def blocking(self, run: Callable[[], T]) -> T:
        """Run what waits for the network; others work meanwhile."""

    def within(self, seconds: float, run: Callable[[], T]) -> T:
        """As `blocking`; raises TimeoutError when it takes longer than that."""

    def spawn(self, run: Callable[[], None]) -> None:
        """Run beside the requests."""

    def repeat(self, interval_s: float, run: Callable[[], None]) -> None:
        """Run again and again, `interval_s` after it ended or failed."""

    def watch(self, environ: Mapping[str, Any]) -> AbstractContextManager[object]:
        """While it is entered, CancelledError is raised in who waits in it if this WSGI request's caller hangs up."""


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


def persistent(run: Callable[[], None]) -> Callable[[], None]:
    """Return what runs the same, and logs the first failure of several in a row instead of raising it."""
    failed = False

    def attempt() -> None:
        nonlocal failed
        try:
            run()
        except Exception:
            if not failed:
                log.exception("what is done again and again failed; it goes on")
            failed = True
        else:
            failed = False

    return attempt


def run_inline(run: Callable[[], T]) -> T:
    """The `Offload` of who has no hub to hold."""
    return run()
