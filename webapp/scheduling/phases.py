"""Where a ticket's time goes. Plain state, changed under the scheduler's lock; every method is told the time.

A moment belongs to one phase: scoring while an engine thread has pairs of the ticket in a batch, else tokenising while
one reads its documents, else waiting. So the three add up to the ticket's life, however many threads are at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Work = Literal["tokenise", "score"]


@dataclass(slots=True)
class Phases:
    """Seconds that a ticket has waited, was tokenised, was scored."""

    since: float = 0.0
    """Up to here everything is booked; monotonic."""
    waited_s: float = 0.0
    tokenise_s: float = 0.0
    score_s: float = 0.0
    _chunks: int = 0
    """Pieces in engine threads' hands."""
    _batches: int = 0

    def take(self, work: Work, now: float) -> None:
        """An engine thread begins with a piece of this ticket."""
        self.book(now)
        self._count(work, 1)

    def give_back(self, work: Work, now: float) -> None:
        """It is done with it."""
        self.book(now)
        self._count(work, -1)

    def book(self, now: float) -> None:
        """Book the time since the last change."""
        spent, self.since = now - self.since, now
        if self._batches:
            self.score_s += spent
        elif self._chunks:
            self.tokenise_s += spent
        else:
            self.waited_s += spent

    def _count(self, work: Work, change: int) -> None:
        if work == "score":
            self._batches += change
        else:
            self._chunks += change
