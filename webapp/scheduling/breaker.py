"""A circuit breaker, before the engine and before Redis. PURE: without clock or lock; callers pass the time.

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
"""In a row. One request that the engine can't score must not take it from all others, which reset the count."""

PAUSE_S = (1.0, 30.0)
"""First and longest; each failed probe doubles it."""

PROBE_S = 30.0
"""A probe without an outcome for so long makes room for another."""


class Breaker:
    """A breaker before something that may fail: the engine, or Redis."""

    def __init__(self, on_change: Callable[[State, State], None] = lambda _old, _new: None) -> None:
        """Begin closed.

        Args:
            on_change: called with the old and the new state.
        """
        self.state: State = "closed"
        self.opened = 0
        """Times it went from closed to open."""
        self._on_change = on_change
        self._failures = 0
        self._pause_s = PAUSE_S[0]
        self._try_at = 0.0

    def allows(self, now: float) -> bool:
        """Return whether a request may pass; in half_open the first is the probe, and the others wait for it."""
        if self.state == "closed":
            return True
        if now < self._try_at:
            return False
        self._try_at = now + PROBE_S
        self._change("half_open")
        return True

    def succeeded(self) -> None:
        """Record that a request was scored."""
        self._failures = 0
        if self.state != "closed":
            self._pause_s = PAUSE_S[0]
            self._change("closed")

    def failed(self, now: float) -> None:
        """Record that the engine failed a request."""
        self._failures += 1
        if self.state == "half_open":
            self._pause_s = min(self._pause_s * 2, PAUSE_S[1])
        elif self.state == "open" or self._failures < FAILURES:
            return  # requests that were under way when it opened say nothing new
        else:
            self.opened += 1
        self._try_at = now + self._pause_s
        self._change("open")

    def no_outcome(self, now: float) -> None:
        """Record a request that says nothing of the engine: it was cancelled, or came to its deadline."""
        if self.state == "half_open":
            self._try_at = now

    def retry_after_s(self, now: float) -> int:
        """Return when to come back, in whole seconds."""
        return max(1, math.ceil(self._try_at - now))

    def _change(self, state: State) -> None:
        old, self.state = self.state, state
        if old != state:
            self._on_change(old, state)
