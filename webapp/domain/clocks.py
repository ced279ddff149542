"""Clocks for what waits or counts: one that never jumps, and one that tells when we stood still.

The system's clock may be set by a day while we run. This process may be stopped and go on, alone or with the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any


class SteadyTime:
    """Stands in for the module `time` in modules of others that wait by the time of day.

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
    """Let these wait by a clock that never jumps."""
    steady = SteadyTime()
    for module in modules:
        module.time = steady  # type: ignore[attr-defined]


class AwakeClock:
    """Knows how long a loop has run without standing still, if it looks here each time."""

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


STANDSTILL_S = 5.0
"""gunicorn's master looks at its workers once a second."""

GRACE_S = 10.0
"""A worker shows that it lives once a second."""


def with_grace(murder: Callable[[Any], None], clock: Callable[[], float] = time.monotonic) -> Callable[[Any], None]:
    """Return a method of gunicorn's master that kills no worker in the first seconds after a standstill.

    Where the whole machine stood still, workers have not been able to show that they live.
    """
    awake = AwakeClock(STANDSTILL_S, clock)

    def murder_with_grace(master: Any) -> None:
        if awake.look() >= GRACE_S:
            murder(master)

    return murder_with_grace
