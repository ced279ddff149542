"""Whether the engine is asked at all. A pure state machine: its methods are told the time, it needs no clock or lock.

closed --(FAILURES in a row)--> open --(after a pause)--> half_open --(one request scored)--> closed
                                  ^------(one failed)--------|

pybreaker wraps calls and keeps time with a lock of its own; our calls end on other threads than they begin on, and what
counts is whether a request was scored, not whether a function raised. Called on the hub's thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 5
"""In a row. One request that the engine can't digest must not take it from all others, who reset the count."""

PAUSE_S = (1.0, 30.0)
"""First and longest; each failed probe doubles it."""

PROBE_S = 30.0
"""A probe that tells nothing for so long makes room for another."""


class Breaker:
    """Stands before the engine."""

    def __init__(self, on_change: Callable[[State, State], None] = lambda _old, _new: None) -> None:
        """Closed.

        Args:
            on_change: told the old and the new state.
        """
        self.state: State = "closed"
        self.opened = 0
        """Times it went from closed to open."""
        self._on_change = on_change
        self._failures = 0
        self._pause_s = PAUSE_S[0]
        self._try_at = 0.0

    def allows(self, now: float) -> bool:
        """Whether a request may go to the engine; in half_open the first is the probe, and the others wait for it."""
        if self.state == "closed":
            return True
        if now < self._try_at:
            return False
        self._try_at = now + PROBE_S
        self._go("half_open")
        return True

    def succeeded(self) -> None:
        """A request was scored."""
        self._failures = 0
        if self.state != "closed":
            self._pause_s = PAUSE_S[0]
            self._go("closed")

    def failed(self, now: float) -> None:
        """The engine failed a request."""
        self._failures += 1
        if self.state == "half_open":
            self._pause_s = min(self._pause_s * 2, PAUSE_S[1])
        elif self.state == "open" or self._failures < FAILURES:
            return  # what was under way when it opened tells nothing new
        else:
            self.opened += 1
        self._try_at = now + self._pause_s
        self._go("open")

    def told_nothing(self, now: float) -> None:
        """A request ended without saying anything of the engine: it was cancelled, or came to its deadline."""
        if self.state == "half_open":
            self._try_at = now

    def retry_after_s(self, now: float) -> int:
        """When to come back, in whole seconds."""
        return max(1, math.ceil(self._try_at - now))

    def _go(self, state: State) -> None:
        old, self.state = self.state, state
        if old != state:
            self._on_change(old, state)
