"""Are the engine threads alive, and do they move?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from webapp.domain.clocks import AwakeClock


class Steps(Protocol):
    """The scheduler, as far as the watchdog looks."""

    def longest_step_s(self) -> float:
        """For how long an engine thread has been at what it has in hand."""


class Threads(Protocol):
    """The engine pool."""

    died: int


STANDSTILL_S = 2.0
"""We are asked once a second. Longer than this between two questions, nobody in this process did anything."""


class Watchdog:
    """Finds what can't be mended inside a process: a native thread can be neither interrupted nor ended."""

    def __init__(
        self, steps: Steps, threads: Threads, *, stall_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps = steps
        self._threads = threads
        self._stall_s = stall_s
        self._awake = AwakeClock(STANDSTILL_S, clock)

    def fault(self) -> str:
        """What is wrong, in words; empty when nothing is. While the process stood still its threads did, too."""
        awake_s = self._awake.look()
        if self._threads.died:
            return f"{self._threads.died} engine threads died"
        if (seconds := min(self._steps.longest_step_s(), awake_s)) > self._stall_s:
            return f"an engine thread has been at one batch for {seconds:.0f} s, the limit is {self._stall_s:g} s"
        return ""
