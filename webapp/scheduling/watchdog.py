"""A watch over the engine threads: whether they live, and whether they make progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from webapp.domain.concurrency import AwakeClock
from webapp.scheduling.scheduler import Scheduler

STANDSTILL_S = 2.0
"""`fault` is called once a second. Longer than this between two calls, the whole process stood still."""


class Watchdog:
    """Finds faults that need a new process: a native thread can be neither interrupted nor ended."""

    def __init__(
        self,
        scheduler: Scheduler,
        dead_threads: Callable[[], int],
        *,
        stall_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._dead_threads = dead_threads
        self._stall_s = stall_s
        self._awake = AwakeClock(STANDSTILL_S, clock)

    def fault(self) -> str:
        """Return what is wrong, in words; empty when nothing is. A standstill of the whole process is no fault."""
        awake_s = self._awake.look()
        if died := self._dead_threads():
            return f"{died} engine threads died"
        if (seconds := min(self._scheduler.longest_step_s(), awake_s)) > self._stall_s:
            return f"an engine thread has been at one batch for {seconds:.0f} s, the limit is {self._stall_s:g} s"
        return ""
