"""One native thread that works for many clients: each gets its turn, and nobody waits longer than wanted."""

from __future__ import annotations

import time
from _queue import SimpleQueue
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from webapp.domain.concurrency import Waiter, allocate_lock, start_native_thread

T = TypeVar("T")

LONGEST_WAIT_S = 86_400.0
"""Of who has no deadline; a lock takes no longer one."""

FEW_CLIENTS = 64
"""So many are remembered without a look at who of them still matters."""


class _Turn:
    """Work of one caller."""

    def __init__(self, work: Callable[[], Any], waiter: Waiter) -> None:
        self.work: Callable[[], Any] | None = work
        """None: nobody waits for it."""
        self.waiter = waiter
        self.value: Any = None
        self.error: BaseException | None = None


class FairWorker:
    """Callers wait as their bridge has it; of the clients that wait, the one that took least time goes first."""

    def __init__(self, make_waiter: Callable[[], Waiter], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; the thread starts with the first call, for threads survive no fork.

        Args:
            make_waiter: for one caller.
            clock: monotonic seconds.
        """
        self._make_waiter = make_waiter
        self._clock = clock
        self._lock = allocate_lock()
        self._waiting: dict[str, deque[_Turn]] = {}
        self._taken_s: dict[str, float] = {}
        """Client -> time that it took, counted from what the others had taken when it came."""
        self._floor_s = 0.0
        """What a client that comes now is taken to have had, so that nobody saves up turns."""
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._started = False

    def __call__(self, client: str, deadline: float, work: Callable[[], T]) -> T:
        """Run this on the thread, and wait for it.

        Args:
            client: whose turn it is.
            deadline: time of the clock at which the caller stops waiting.
            work: what is to be done.

        Returns:
            What it returned.

        Raises:
            TimeoutError: it was not done by then.
            BaseException: what it raised, or what is raised in the caller while it waits.
        """
        turn = _Turn(work, self._make_waiter())
        with self._lock:
            if client not in self._waiting:
                self._waiting[client] = deque()
                self._taken_s[client] = max(self._taken_s.get(client, 0.0), self._floor_s)
            self._waiting[client].append(turn)
        self._bell.put(True)
        if not self._started:
            self._started = True
            start_native_thread(self._serve, ())
        try:
            if not turn.waiter.wait(max(0.0, min(deadline - self._clock(), LONGEST_WAIT_S))):
                raise TimeoutError
        finally:
            turn.work = None  # whoever left waits no longer, and what it brought is let go
        if turn.error is not None:
            raise turn.error
        result: T = turn.value
        return result

    def end(self) -> None:
        """End the thread when it has done what it does."""
        self._bell.put(False)

    def _serve(self) -> None:
        while self._bell.get():
            with self._lock:
                client, turn = self._next()
            began = self._clock()
            if (work := turn.work) is not None:
                try:
                    turn.value = work()
                except BaseException as error:  # noqa: BLE001 - it is raised in the caller
                    turn.error = error
            del work
            with self._lock:
                self._taken_s[client] += self._clock() - began
                self._forget()
            turn.waiter.wake()
            del turn

    def _next(self) -> tuple[str, _Turn]:
        client = min(self._waiting, key=self._taken_s.__getitem__)
        self._floor_s = self._taken_s[client]
        turns = self._waiting[client]
        turn = turns.popleft()
        if not turns:
            del self._waiting[client]
        return client, turn

    def _forget(self) -> None:
        """Forget clients who wait for nothing and took no more than who comes anew."""
        if len(self._taken_s) > len(self._waiting) + FEW_CLIENTS:
            self._taken_s = {
                client: taken
                for client, taken in self._taken_s.items()
                if client in self._waiting or taken > self._floor_s
            }
