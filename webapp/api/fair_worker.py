"""One native thread that works for many clients: each gets its turn, and none waits beyond its deadline."""

from __future__ import annotations

import heapq
import time
from _queue import SimpleQueue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from webapp.domain.concurrency import Waiter, allocate_lock, start_native_thread

T = TypeVar("T")

MOST_IDLE = 64
"""Clients that wait for nothing and are remembered: those that used most, for the others lose little by it."""

LONGEST_WAIT_S = 86_400.0
"""Wait of a caller without a deadline; a lock takes no longer timeout."""


@dataclass(slots=True, eq=False)
class _Turn:
    """The work of one caller."""

    client: str
    work: Callable[[], Any] | None
    """None: its caller left."""
    waiter: Waiter
    value: Any = None
    error: BaseException | None = None


class FairWorker:
    """A thread that runs the work of the client that has used it least; callers wait with their bridge's waiter."""

    def __init__(self, make_waiter: Callable[[], Waiter], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; the thread starts with the first call, because threads survive no fork.

        Args:
            make_waiter: makes the waiter of one caller.
            clock: monotonic seconds.
        """
        self._make_waiter = make_waiter
        self._clock = clock
        self._lock = allocate_lock()
        self._waiting: list[_Turn] = []
        """In the order in which they came."""
        self._taken_s: dict[str, float] = {}
        """Client -> seconds used, beginning with the seconds of the others when it came."""
        self._floor_s = 0.0
        """Seconds that a new client begins with, so that no client saves up turns."""
        self._work_or_end: SimpleQueue[bool] = SimpleQueue()
        """True: a caller waits. False: end."""
        self._started = False

    def __call__(self, client: str, deadline: float, work: Callable[[], T]) -> T:
        """Run `work` on the thread, and wait for it.

        Args:
            client: name of the client; clients take turns.
            deadline: time of the clock at which the caller stops waiting.
            work: function to run.

        Returns:
            The result of `work`.

        Raises:
            TimeoutError: it was not done by the deadline.
            BaseException: raised by `work`, or in the caller while it waits.
        """
        turn = _Turn(client, work, self._make_waiter())
        with self._lock:
            self._taken_s[client] = max(self._taken_s.get(client, 0.0), self._floor_s)
            self._waiting.append(turn)
        self._work_or_end.put(True)
        if not self._started:
            self._started = True
            start_native_thread(self._serve, ())
        try:
            if not turn.waiter.wait(max(0.0, min(deadline - self._clock(), LONGEST_WAIT_S))):
                raise TimeoutError
        finally:
            turn.work = None  # a caller that left waits no longer, and the memory of its work is freed
        if turn.error is not None:
            raise turn.error
        result: T = turn.value
        return result

    def end(self) -> None:
        """End the thread when its current work is done."""
        self._work_or_end.put(False)

    def _serve(self) -> None:
        while self._work_or_end.get():
            with self._lock:
                turn = min(self._waiting, key=lambda each: self._taken_s[each.client])
                self._waiting.remove(turn)
                self._floor_s = self._taken_s[turn.client]
            began = self._clock()
            if (work := turn.work) is not None:
                try:
                    turn.value = work()
                except BaseException as error:  # noqa: BLE001 - it is raised in the caller
                    turn.error = error
            del work
            with self._lock:
                self._taken_s[turn.client] += self._clock() - began
                self._forget()
            turn.waiter.wake()
            del turn

    def _forget(self) -> None:
        waiting = {each.client for each in self._waiting}
        if len(self._taken_s) > len(waiting) + 2 * MOST_IDLE:  # not after every turn
            idle = heapq.nlargest(MOST_IDLE, self._taken_s.keys() - waiting, key=self._taken_s.__getitem__)
            self._taken_s = {client: self._taken_s[client] for client in (*waiting, *idle)}
