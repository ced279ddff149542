"""How native engine threads and their callers meet, and clocks for what waits. Knows neither gevent nor asyncio.

Engine threads are native: they touch no event loop and no patched lock. gevent's monkey patch replaces `threading` and
`_thread`, so what they need is fetched here unpatched. A waiter's `wake` may be called from any native thread.
`queue.Queue` would lose wake-ups here once patched (native put, greenlet get); the C class `_queue.SimpleQueue`
is never patched and serves native threads that wait for native threads or for the hub.

The system's clock may be set by a day while we run: `SteadyTime` never jumps. This process may be stopped and go on,
alone or with the machine: `AwakeClock` notices.
"""

from __future__ import annotations

import _thread  # noqa: F401 - `original` finds it
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

MANY_CHARS = 256 * 1024
"""To hash or to write so many characters takes a millisecond: a longer text is handled by an `Offload`."""

LONG_CHARS = 1_000_000
"""To copy, encode or unpickle so many characters takes a few milliseconds: longer texts go in pieces of so many."""


def original(module: str, name: str) -> Any:
    """Return an attribute of a standard module as it was before gevent patched it, if gevent's patch was imported."""
    # A reach into gevent; not needed once `_thread` has a documented way to native locks and threads under its patch.
    monkey = sys.modules.get("gevent.monkey")
    return getattr(sys.modules[module], name) if monkey is None else monkey.get_original(module, name)


allocate_lock = original("_thread", "allocate_lock")
start_native_thread = original("_thread", "start_new_thread")


class Waiter(Protocol):
    """One caller that sleeps until an engine thread is done with its request."""

    def wake(self) -> None:
        """Let `wait` return True. Callable from any native thread, once or more."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; return False when `timeout_s` passed first."""


class Offload(Protocol):
    """Runs work that would block the hub on another thread."""

    def __call__(self, run: Callable[[], T]) -> T:
        """Return the result; other requests go on meanwhile."""


class Bridge(Protocol):
    """What the composition root needs of the event loop that runs the requests: gevent's hub, or asyncio's loop."""

    def make_waiter(self) -> Waiter:
        """Return a waiter for one caller, made and waited for on the hub's thread."""

    def make_offload(self) -> Offload:
        """Return an offload for computing; it is first called after the fork."""

    def within(self, seconds: float, run: Callable[[], T]) -> T:
        """Run what waits for the network, beside other requests; raises TimeoutError when it takes longer."""

    def spawn(self, run: Callable[[], None]) -> None:
        """Run beside the requests."""

    def repeat(self, interval_s: float, run: Callable[[], None]) -> None:
        """Run again and again, `interval_s` after it ended or failed."""

    def watch(self, environ: Mapping[str, Any]) -> AbstractContextManager[object]:
        """Return a context that raises CancelledError in its waiting caller if this WSGI request's client hangs up."""


class NativeWaiter:
    """A waiter for a native thread: command line, tests, an engine's own warm-up."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Release the lock that `wait` is blocked on."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; return False when `timeout_s` passed first."""
        return bool(self._lock.acquire(timeout=timeout_s))


def persistent(run: Callable[[], None]) -> Callable[[], None]:
    """Return a function that runs the same, and logs the first failure of several in a row instead of raising it."""
    failed = False

    def attempt() -> None:
        nonlocal failed
        try:
            run()
        except Exception:
            if not failed:
                log.exception("a repeated task failed; it goes on")
            failed = True
        else:
            failed = False

    return attempt


def run_inline(run: Callable[[], T]) -> T:
    """Run in the calling thread: the `Offload` of a caller without a hub."""
    return run()


class SteadyTime:
    """A stand-in for the module `time` in libraries that wait by the time of day.

    It begins with the time of day, and then only runs.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, of_the_day: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._ahead = of_the_day() - clock()

    def time(self) -> float:
        """Return unix seconds as they were when this was made, and what has passed since."""
        return self._ahead + self._clock()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def make_steady(*modules: ModuleType) -> None:
    """Let these modules wait by a clock that never jumps. Not needed once they use `time.monotonic` themselves."""
    steady = SteadyTime()
    for module in modules:
        module.time = steady  # type: ignore[attr-defined]


class AwakeClock:
    """A clock of how long a loop has run without a standstill, if the loop calls `look` each time."""

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now.

        Args:
            longest_s: a longer time between two looks is a standstill.
            clock: monotonic seconds.
        """
        self._longest_s = longest_s
        self._clock = clock
        self._since = self._looked = clock()

    def look(self) -> float:
        """Return the seconds since the last standstill, or since the beginning."""
        now = self._clock()
        if now - self._looked > self._longest_s:
            self._since = now
        self._looked = now
        return now - self._since
