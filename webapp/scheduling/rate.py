"""How fast pairs are scored, measured while there is work. Plain state: every method is told the time."""

from __future__ import annotations

import math

MEMORY_S = 5.0
"""What is older than this counts for about a third."""


class Rate:
    """Tokens a second as a moving average over the time in which there was work.

    Idle time doesn't count: an idle service is not a slow one.
    """

    def __init__(self, first_tokens_per_s: float = 0.0) -> None:
        """Begin with what is known, such as what `prepare` measured; 0 when nothing is."""
        self._sum = first_tokens_per_s
        self._weight = 1.0 if first_tokens_per_s else 0.0
        self._last = 0.0

    @property
    def tokens_per_s(self) -> float:
        """0 while nothing is known."""
        return self._sum / self._weight if self._weight else 0.0

    def resume(self, now: float) -> None:
        """Work came to an idle service."""
        self._last = now

    def add(self, tokens: int, now: float) -> None:
        """These were scored, just now."""
        seconds = max(now - self._last, 1e-6)
        self._last = now
        kept = math.exp(-seconds / MEMORY_S)
        self._sum = self._sum * kept + tokens / seconds * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)
