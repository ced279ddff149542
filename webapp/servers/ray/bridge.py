"""The bridge between native engine threads and an asyncio loop; the counterpart of `servers.gunicorn.bridge`.

The service is written for callers that wait where they are, and runs on one thread that switches only at waits. Here
too: each call runs in a greenlet on the loop's own thread, and hands the loop what it waits for. So it needs no locks,
a call costs no thread, and the same code serves both. (`greenlet` is the library below gevent; it has no loop, and
patches nothing.)

Laws: everything here is used on the loop's thread, but for `AsyncioWaiter.wake`; code that waits runs in `in_greenlet`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import greenlet

from webapp.domain.concurrency import Offload, Waiter, persistent
from webapp.domain.errors import CancelledError

T = TypeVar("T")

BLOCKING_THREADS = 8
"""Threads that wait for the network; a call that finds none free waits for one, within its time."""


class _Call(greenlet.greenlet):  # type: ignore[misc] # greenlet has no types
    """A call that waits as if it had a thread to itself."""

    hung_up = False
    """Its caller hung up."""
    watched = False
    """It wants an error when that happens, now."""


async def in_greenlet(run: Callable[[], T]) -> T:
    """Run on this thread; while it waits, the loop runs others.

    Returns:
        What it returned.

    Raises:
        asyncio.CancelledError: the task was cancelled. The call has ended by then: it was interrupted where it
            watches its caller, and finished by itself where it does not.
        Exception: what it raised.
    """
    call = _Call(run)
    call.gr_context = contextvars.copy_context()
    awaited = call.switch()
    while not call.dead:
        future = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait([future])  # neither cancels it with us, nor raises for it
        except asyncio.CancelledError:
            call.hung_up = True
        if future.done():
            awaited = call.switch(future)
        elif call.watched:
            future.cancel()
            awaited = call.throw(CancelledError("the caller hung up"))
        else:
            awaited = future
    if call.hung_up:
        raise asyncio.CancelledError
    return cast("T", awaited)


def wait_for(awaitable: Awaitable[T]) -> T:
    """Wait inside `in_greenlet`; return or raise what the awaitable does."""
    call = greenlet.getcurrent()
    if not isinstance(call, _Call) or call.parent is None:
        if asyncio.iscoroutine(awaitable):
            awaitable.close()
        raise RuntimeError("this code waits; run it by in_greenlet")
    future: asyncio.Future[T] = call.parent.switch(awaitable)
    return future.result()


class AsyncioWaiter:
    """A waiter for a call; made and waited for on the loop's thread."""

    __slots__ = ("_loop", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Set the event on the loop's thread, the only one that may touch it."""
        with contextlib.suppress(RuntimeError):  # the loop was closed: no caller waits any more
            self._loop.call_soon_threadsafe(self._woken.set)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until woken; return False when `timeout_s` passed first."""
        return self._woken.is_set() or wait_for(self._wait(timeout_s))

    async def _wait(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        return self._woken.is_set()


class AsyncioBridge:
    """A `webapp.domain.concurrency.Bridge` of a replica. What it began ends with `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(BLOCKING_THREADS, "blocking")
        self._computing: list[ThreadPoolExecutor] = []

    def make_waiter(self) -> Waiter:
        """Return a waiter for a call."""
        return AsyncioWaiter()

    def make_offload(self) -> Offload:
        """Return an offload with a native thread of its own."""
        self._computing.append(thread := ThreadPoolExecutor(1, "offload"))
        return lambda run: wait_for(asyncio.get_running_loop().run_in_executor(thread, run))

    def within(self, seconds: float, run: Callable[[], T]) -> T:
        """Run on a thread, for nothing is patched here; it goes on when the time is over, and its result is dropped."""
        answer = asyncio.get_running_loop().run_in_executor(self._threads, run)
        return wait_for(asyncio.wait_for(answer, seconds))

    def spawn(self, run: Callable[[], None]) -> None:
        """Run in a task."""
        self._keep(in_greenlet(run))

    def repeat(self, interval_s: float, run: Callable[[], None]) -> None:
        """Run again and again in a task, `interval_s` after it ended."""
        run = persistent(run)

        async def forever() -> None:
            while True:
                await asyncio.sleep(interval_s)
                await in_greenlet(run)

        self._keep(forever())

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        call = cast("_Call", greenlet.getcurrent())
        if call.hung_up:
            raise CancelledError("the caller hung up")
        call.watched = True
        try:
            yield
        finally:
            call.watched = False

    def watch(self, environ: Mapping[str, Any]) -> AbstractContextManager[object]:
        """Watch the task that runs the call: the server cancels it when the caller hangs up."""
        del environ
        return self._watching()

    def close(self) -> None:
        """End what was spawned or repeats. Threads end after their current work."""
        for task in self._tasks:
            task.cancel()
        self._threads.shutdown(wait=False)
        for thread in self._computing:
            thread.shutdown(wait=False)

    def _keep(self, run: Any) -> None:
        task = asyncio.get_running_loop().create_task(run)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)
